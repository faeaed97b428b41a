package lb_test

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/internal/natstest"
	"ballast/internal/ports"
	"ballast/internal/wait"
	"ballast/lb"
	"ballast/traffic"
)

// What docs/client-library.md says of each way in which there may be no good
// document: messages go on by the last good one, from before the program's start
// too, and each way is one line in the log, however long it takes.

const warning = "level=WARN"

// cached is a file with revision 7 in it, as a program left it that ran before.
func cached(t *testing.T) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "orders.json")
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	put(t, bucket(t, jetStream(t, nc), 1), revision(1, 7, splitOf(weights{"east": 70, "west": 30})))
	var book logBook
	p, err := lb.NewPublisher(nc, "orders", lb.WithCache(file), lb.WithLog(book.logger()))
	if err != nil {
		t.Fatal(err)
	}
	stop := running(t, "publisher", p.Run)
	ready(t, p)
	wait.For(t, 30*time.Second, "the document to be in the file", func() bool { return book.count("weights are in force") == 1 })
	stop()
	return file
}

// follower is a publisher that begins with revision 7 out of its cache.
func follower(t *testing.T, nc *nats.Conn, book *logBook) *lb.Publisher {
	t.Helper()
	p := publisher(t, nc, lb.WithCache(cached(t)), lb.WithLog(book.logger()), lb.WithResync(20*time.Millisecond))
	if !at(p, 7)() {
		t.Fatal("the cached revision is not in force")
	}
	return p
}

// goesOn checks that messages are divided by the revision.
func goesOn(t *testing.T, p *lb.Publisher, number uint64) {
	t.Helper()
	for range 100 {
		if err := p.Publish(t.Context(), []byte("x")); err != nil {
			t.Fatalf("publish: %v", err)
		}
	}
	if rev, ok := p.Revision(); !ok || rev.Number != number {
		t.Errorf("in force is revision %d, want %d", rev.Number, number)
	}
}

// requests is how many requests JetStream has answered, those it refused too.
func requests(tb testing.TB, srv *server.Server) uint64 {
	tb.Helper()
	js, err := srv.Jsz(nil)
	if err != nil {
		tb.Fatal(err)
	}
	return js.API.Total
}

// once checks that all of it was one warning.
func once(t *testing.T, book *logBook, says string) {
	t.Helper()
	if n, all := book.count(says), book.count(warning); n != 1 || all != 1 {
		t.Errorf("%d lines with %q of %d warnings, want one:\n%s", n, says, all, book.text())
	}
}

func TestDegradedBucketAbsent(t *testing.T) {
	t.Parallel()
	srv := natstest.Server(t)
	nc := natstest.Connect(t, srv.ClientURL())
	book := &logBook{}
	p := follower(t, nc, book)
	wait.For(t, 30*time.Second, "three looks", func() bool { return requests(t, srv) >= 3 })
	goesOn(t, p, 7)
	once(t, book, "weights are not followed")
	put(t, bucket(t, jetStream(t, nc), 1), revision(1, 8, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the document", at(p, 8))
}

func TestDegradedBucketEmpty(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	book := &logBook{}
	p := follower(t, nc, book)
	wait.For(t, 30*time.Second, "a word about it", func() bool { return book.count("has no document") == 1 })
	again(t, nc)
	goesOn(t, p, 7)
	put(t, kv, revision(1, 8, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the document", at(p, 8))
	once(t, book, "has no document")
}

func TestDegradedServerUnreachableAtTheStart(t *testing.T) {
	t.Parallel()
	free, err := ports.Free(1)
	if err != nil {
		t.Fatal(err)
	}
	var tried diary
	nc, err := lb.Connect(fmt.Sprintf("nats://127.0.0.1:%d", free[0]), quickly(), lb.WithEvents(tried.write))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	book := &logBook{}
	p := follower(t, nc, book)
	wait.For(t, 30*time.Second, "a failed attempt", tried.has(lb.EventUnreachable))
	wait.For(t, 30*time.Second, "a word about it", func() bool { return book.count("weights are not followed") == 1 })
	goesOn(t, p, 7)
	once(t, book, "weights are not followed")
	srv := natstest.Server(t, natstest.Tweak(func(o *server.Options) { o.Port = free[0] }))
	put(t, bucket(t, jetStream(t, natstest.Connect(t, srv.ClientURL())), 1), revision(1, 8, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the document", at(p, 8))
}

// A bucket that was put back from an old copy, with its own KV revisions.
func TestDegradedBucketRolledBack(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	js := jetStream(t, nc)
	put(t, bucket(t, js, 1), revision(1, 8, splitOf(weights{"east": 50, "west": 50})))
	book := &logBook{}
	p := follower(t, nc, book)
	wait.For(t, 30*time.Second, "the document", at(p, 8))
	if err := js.DeleteKeyValue(t.Context(), traffic.Bucket); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "a word about the deleted bucket", func() bool { return book.count("weights are not followed") == 1 })
	goesOn(t, p, 8)
	once(t, book, "weights are not followed")
	var kv jetstream.KeyValue
	wait.For(t, 30*time.Second, "the old bucket", func() bool { // the server may still be removing the other one's files
		var err error
		kv, err = js.CreateKeyValue(t.Context(), jetstream.KeyValueConfig{Bucket: traffic.Bucket, History: 64})
		return err == nil
	})
	put(t, kv, revision(1, 3, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "its refusal", func() bool { return book.count("revision 3 is older") == 1 })
	again(t, nc)
	wait.For(t, 30*time.Second, "its refusal again", func() bool { return p.Stats().Refused >= 2 })
	goesOn(t, p, 8)
	if n := book.count("revision 3 is older"); n != 1 {
		t.Errorf("the old document was logged %d times, want once:\n%s", n, book.text())
	}
	put(t, kv, revision(2, 9, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "a document that is newer", at(p, 9))
}

func TestDegradedRubbish(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	putRaw(t, kv, []byte("rubbish"))
	book := &logBook{}
	p := follower(t, nc, book)
	wait.For(t, 30*time.Second, "its refusal", func() bool { return p.Stats().Refused >= 1 })
	again(t, nc)
	wait.For(t, 30*time.Second, "its refusal again", func() bool { return p.Stats().Refused >= 2 })
	goesOn(t, p, 7)
	once(t, book, "a document was refused")
	put(t, kv, revision(1, 8, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the good document", at(p, 8))
}

func TestDegradedKeyDeleted(t *testing.T) {
	t.Parallel()
	nc := natstest.Connect(t, natstest.Server(t).ClientURL())
	kv := bucket(t, jetStream(t, nc), 1)
	put(t, kv, revision(1, 8, splitOf(weights{"east": 50, "west": 50})))
	book := &logBook{}
	p := follower(t, nc, book)
	wait.For(t, 30*time.Second, "the document", at(p, 8))
	if err := kv.Delete(t.Context(), traffic.Key("orders")); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "a word about it", func() bool { return book.count("was deleted") == 1 })
	again(t, nc)
	goesOn(t, p, 8)
	put(t, kv, revision(1, 9, splitOf(weights{"west": 100})))
	wait.For(t, 30*time.Second, "the next document", at(p, 9))
	once(t, book, "was deleted")
}

// again has the connection made anew, and with it the watch.
func again(t *testing.T, nc *nats.Conn) {
	t.Helper()
	before := nc.Stats().Reconnects
	if err := nc.ForceReconnect(); err != nil {
		t.Fatal(err)
	}
	wait.For(t, 30*time.Second, "the connection again", func() bool { return nc.Stats().Reconnects > before && nc.IsConnected() })
}

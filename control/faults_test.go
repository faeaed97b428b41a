package control

import (
	"bytes"
	"context"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"

	"ballast/fleet"
	"ballast/internal/natstest"
	"ballast/internal/wait"
	"ballast/traffic"
)

// fault is what a proxy does with the next write to the bucket or to a consumer.
type fault int

const (
	none fault = iota
	loseReply
	loseWrite
	holdWrite // until release: the network delivers it late
)

// proxy stands between a console and its server and spoils one write.
type proxy struct {
	ln     net.Listener
	server string

	mu      sync.Mutex
	next    fault
	struck  bool
	clients []net.Conn
	held    func()
}

func newProxy(tb testing.TB, server string) *proxy {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	p := &proxy{ln: ln, server: strings.TrimPrefix(server, "nats://")}
	tb.Cleanup(func() { ln.Close(); p.heal() })
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go p.serve(client)
		}
	}()
	return p
}

func (p *proxy) url() string { return "nats://" + p.ln.Addr().String() }

func (p *proxy) serve(client net.Conn) {
	srv, err := net.Dial("tcp", p.server)
	if err != nil {
		client.Close()
		return
	}
	p.mu.Lock()
	p.clients = append(p.clients, client)
	p.mu.Unlock()
	var mu sync.Mutex
	deaf := false // the client hears nothing any more
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, err := srv.Read(buf)
			if err != nil {
				client.Close()
				return
			}
			mu.Lock()
			quiet := deaf
			mu.Unlock()
			if !quiet {
				client.Write(buf[:n])
			}
		}
	}()
	buf := make([]byte, 256<<10)
	for {
		n, err := client.Read(buf)
		if err != nil {
			srv.Close()
			return
		}
		f := none
		if bytes.Contains(buf[:n], []byte("HPUB $KV."+traffic.Bucket)) || bytes.Contains(buf[:n], []byte("PUB $JS.API.CONSUMER.CREATE.ORDERS.")) {
			p.mu.Lock()
			f, p.next = p.next, none
			p.struck = p.struck || f != none
			p.mu.Unlock()
		}
		switch f {
		case none:
			srv.Write(buf[:n])
			continue
		case loseReply:
			mu.Lock()
			deaf = true
			mu.Unlock()
			srv.Write(buf[:n])
			continue
		case holdWrite:
			late := slices.Clone(buf[:n])
			p.mu.Lock()
			p.held = func() { srv.Write(late) } // the connection to the server stays open for it
			p.mu.Unlock()
		}
		for { // lost or held: nothing more gets through here
			if _, err := client.Read(buf); err != nil {
				if f == loseWrite {
					srv.Close()
				}
				return
			}
		}
	}
}

func (p *proxy) arm(f fault) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.next, p.struck = f, false
}

// heal breaks the spoilt connections; the client's next ones are good.
func (p *proxy) heal() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		c.Close()
	}
	p.clients = nil
}

func (p *proxy) release() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.held()
}

func impatient(c *Control) {
	c.readTimeout, c.writeTimeout, c.settleTimeout = 300*time.Millisecond, 300*time.Millisecond, 200*time.Millisecond
}

func TestLostWritesAreResolvedRight(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault fault
		want  traffic.Phase
	}{
		"reply lost":              {loseReply, traffic.Baking},
		"write lost":              {loseWrite, traffic.Rejected},
		"write late, after fence": {holdWrite, traffic.Rejected},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := context.Background()
			direct := connect(t)
			p := newProxy(t, direct.ConnectedUrl())
			nc := natstest.Connect(t, p.url(), nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond))
			ledger := &memLedger{}
			c, _ := console(t, Config{Conn: nc, Ledger: ledger}, impatient)
			mustApply(t, c, edit(0, orders("orders", 60, 40)))

			p.arm(tc.fault)
			ch, err := c.Apply(ctx, edit(1, orders("orders", 50, 50)))
			wantKind(t, err, fleet.Unknown)
			if ch.Phase != traffic.UnknownOut {
				t.Fatalf("phase %s, want unknown", ch.Phase)
			}
			_, err = c.Apply(ctx, edit(1, orders("orders", 10, 90)))
			wantKind(t, err, fleet.Unavailable) // nothing else on this split meanwhile
			p.heal()
			got := waitPhase(t, c, ch.ID, tc.want)
			if got.Outcome == "" {
				t.Error("no sentence on how it ended")
			}
			want := uint64(1)
			if tc.want == traffic.Baking {
				want = 2
			}
			if tc.fault == holdWrite {
				before := leaderDoc(t, c, "orders").token
				p.release()
				// A write behind the late one on another connection shows when both were served.
				mustApply(t, c, edit(1, orders("orders", 55, 45)))
				if after := leaderDoc(t, c, "orders"); after.token != before+1 || after.rev.Change == ch.ID {
					t.Errorf("the late write moved the key from %d to %d (change %s)", before, after.token, after.rev.Change)
				}
				want = 2
			}
			if doc := leaderDoc(t, c, "orders"); doc.number() != want {
				t.Errorf("revision %d in force, want %d", doc.number(), want)
			}
			mustApply(t, c, edit(want, orders("orders", 20, 80)))
			checkDocuments(t, direct, ledger)
		})
	}
}

func TestLostCreationIsResolvedRight(t *testing.T) {
	t.Parallel()
	direct := connect(t)
	p := newProxy(t, direct.ConnectedUrl())
	nc := natstest.Connect(t, p.url(), nats.MaxReconnects(-1), nats.ReconnectWait(5*time.Millisecond))
	c, _ := console(t, Config{Conn: nc}, impatient)
	p.arm(holdWrite)
	ch, err := c.Apply(context.Background(), edit(0, orders("orders", 60, 40)))
	wantKind(t, err, fleet.Unknown)
	p.heal()
	waitPhase(t, c, ch.ID, traffic.Rejected)
	p.release()
	again := mustApply(t, c, edit(0, orders("orders", 50, 50)))
	if doc := leaderDoc(t, c, "orders"); doc.rev.Change != again.ID {
		t.Errorf("in force is change %s, want %s", doc.rev.Change, again.ID)
	}
}

func TestAskerGoesAwayDuringTheWrite(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	ctx, cancel := context.WithCancel(context.Background())
	ledger := &memLedger{}
	ledger.setRefuse(func(e traffic.Entry) error {
		if e.Kind == traffic.EntryIntent {
			cancel() // the browser is closed right after the intent
		}
		return nil
	})
	c, _ := console(t, Config{Conn: nc, Ledger: ledger})
	ch, err := c.Apply(ctx, edit(0, orders("orders", 60, 40)))
	if err != nil || ch.Phase != traffic.Baking {
		t.Errorf("Apply = %s, %v; want it finished", ch.Phase, err)
	}
}

func TestRestartResumes(t *testing.T) {
	t.Parallel()
	nc := connect(t)
	ledger := &memLedger{}
	c, stop := console(t, Config{Conn: nc, Ledger: ledger, Bake: 200 * time.Millisecond, Observer: steady(time.Millisecond), Every: time.Hour})
	first := mustApply(t, c, edit(0, orders("orders", 60, 40)))
	stop()

	t.Run("while baking", func(t *testing.T) {
		c, stop := console(t, Config{Conn: nc, Ledger: ledger, Observer: steady(time.Millisecond)})
		waitPhase(t, c, first.ID, traffic.Verified)
		stop()
		checkReplay(t, c, ledger)
	})
	t.Run("after the write, before its entry", func(t *testing.T) {
		c, stop := console(t, Config{Conn: nc, Ledger: ledger.until(traffic.EntryIntent)})
		waitPhase(t, c, first.ID, traffic.Baking)
		if doc := leaderDoc(t, c, "orders"); doc.number() != 1 {
			t.Errorf("revision %d, want 1", doc.number())
		}
		stop()
	})
	t.Run("after the intent, before the write", func(t *testing.T) {
		l := ledger.until(traffic.EntryVerified)
		never := New(Config{Ledger: l})
		ch := traffic.Change{ID: "lost", Split: "orders", Phase: traffic.Applying, Base: 1, Revision: 2, Actor: "ann",
			Before: orders("orders", 60, 40), After: orders("orders", 1, 99), Created: never.now()}
		if err := never.append(context.Background(), never.about(traffic.EntryIntent, ch, "ann", "")); err != nil {
			t.Fatal(err)
		}
		c, stop := console(t, Config{Conn: nc, Ledger: l})
		waitPhase(t, c, "lost", traffic.Rejected)
		mustApply(t, c, edit(1, orders("orders", 30, 70)))
		stop()
		checkReplay(t, c, l)
	})
	t.Run("between an undo and the end of the undone", func(t *testing.T) {
		l := &memLedger{}
		c, stop := console(t, Config{Conn: connect(t), Ledger: l})
		mustApply(t, c, edit(0, orders("orders", 60, 40)))
		bad := mustApply(t, c, edit(1, orders("orders", 1, 99)))
		if _, err := c.Rollback(context.Background(), bad.ID, "ann", ""); err != nil {
			t.Fatal(err)
		}
		stop()
		l = l.until(traffic.EntryWritten)
		c2, _ := console(t, Config{Conn: nc, Ledger: l})
		waitPhase(t, c2, bad.ID, traffic.RolledBack)
		if l.count(traffic.EntryRollback) != 1 {
			t.Error("the rollback is not on record")
		}
	})
}

// TestEveryRevisionIsWhole drives two consoles at random over faulty journals
// and restarts, and then looks at all that was ever written.
func TestEveryRevisionIsWhole(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 1))
	nc := connect(t)
	ledgers := []*memLedger{{}, {}}
	consoles := make([]*Control, 2)
	stops := make([]func(), 2)
	open := func(i int) {
		consoles[i], stops[i] = console(t, Config{Conn: nc, Ledger: ledgers[i], Bake: time.Duration(1+rng.IntN(20)) * time.Millisecond})
	}
	open(0)
	open(1)
	names := []string{"a", "b", "c"}
	for range 300 {
		i := rng.IntN(2)
		c, name := consoles[i], names[rng.IntN(len(names))]
		now, err := c.read(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		base := now.number()
		if rng.IntN(5) == 0 && base > 0 {
			base-- // what somebody looked at a while ago
		}
		w := rng.IntN(101)
		next := orders(name, w, 100-w)
		if rng.IntN(6) == 0 {
			next.Targets[0].Weight++ // a mistake
		}
		switch rng.IntN(12) {
		case 0:
			ledgers[i].setRefuse(func(traffic.Entry) error { return os.ErrInvalid })
			c.Apply(ctx, edit(base, next))
			ledgers[i].setRefuse(nil)
		case 1:
			c.Delete(ctx, name, base, "ann", "")
		case 2:
			if chs := c.Changes(name, 1); len(chs) > 0 {
				c.Rollback(ctx, chs[0].ID, "ann", "")
			}
		case 3:
			stops[i]()
			checkReplay(t, consoles[i], ledgers[i])
			open(i)
		default:
			c.Apply(ctx, edit(base, next))
		}
	}
	stops[0]()
	stops[1]()
	if wrote := checkDocuments(t, nc, ledgers...); len(wrote) < 100 {
		t.Errorf("only %d revisions were written: the test tests nothing", len(wrote))
	}
}

// TestNoReplicaReads reads the source: a direct get is served by any replica
// and may be old without saying so, so nothing here may use one.
func TestNoReplicaReads(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	direct := []string{"GetRevision", "GetMsg", "GetLastMsgForSubject", "GetMsgBatch", "Create", "Put", "PutString", "Update"}
	leaderReads := 0
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		src, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if bytes.Contains(src, []byte("DIRECT.GET")) {
			t.Errorf("%s asks replicas", f)
		}
		leaderReads += bytes.Count(src, []byte(`"$JS.API.STREAM.MSG.GET."`))
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, f, src, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(parsed, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			sel, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			// The header's Get takes one argument, the KV's a context and a key.
			if slices.Contains(direct, sel.Sel.Name) || sel.Sel.Name == "Get" && len(call.Args) > 1 {
				t.Errorf("%s calls %s", fset.Position(call.Pos()), sel.Sel.Name)
			}
			return true
		})
	}
	if leaderReads != 1 {
		t.Errorf("%d places read from the leader, want 1", leaderReads)
	}
}

func TestCluster(t *testing.T) {
	t.Parallel()
	cl := natstest.Cluster(t, 3)
	ledger := &memLedger{}
	c, stop := console(t, Config{Conn: cl.App(t), Ledger: ledger})
	ctx := context.Background()
	first := mustApply(t, c, edit(0, orders("orders", 50, 50)))
	if first.Revision != 1 {
		t.Fatalf("revision %d", first.Revision)
	}
	if _, created, err := c.born(ctx); err != nil || created.IsZero() {
		t.Fatalf("bucket: %v", err)
	}

	t.Run("acknowledged within 50 ms", func(t *testing.T) {
		const n = 50
		took := make([]time.Duration, n)
		for i := range n {
			w := i%98 + 1
			start := time.Now()
			mustApply(t, c, edit(uint64(i+1), orders("orders", w, 100-w)))
			took[i] = time.Since(start)
		}
		slices.Sort(took)
		t.Logf("apply on R3: p50 %v p90 %v max %v", took[n/2], took[n*9/10], took[n-1])
		if took[n/2] > 50*time.Millisecond {
			t.Errorf("the median is %v, want at most 50 ms", took[n/2])
		}
	})

	t.Run("leader killed during changes", func(t *testing.T) {
		for round := range 2 {
			victim := cl.StreamLeader(stream)
			if victim < 0 {
				t.Fatal("no leader to kill")
			}
			done := make(chan struct{})
			var tried []traffic.Change
			started := make(chan struct{})
			after := 0
			var killed atomic.Bool
			go func() { // an operator who does not give up
				defer close(done)
				deadline := time.Now().Add(60 * time.Second)
				for i := 0; time.Now().Before(deadline); i++ {
					if i == 3 {
						close(started)
					}
					now, err := c.read(ctx, "orders")
					if err != nil {
						pause(ctx, 20*time.Millisecond) // an operator's patience
						continue
					}
					w := (i+round)%98 + 1
					ch, err := c.Apply(ctx, edit(now.number(), orders("orders", w, 100-w)))
					if ch.ID != "" {
						tried = append(tried, ch)
					}
					if err == nil && killed.Load() {
						if after++; after == 10 {
							return
						}
					}
				}
			}()
			<-started
			cl.Kill(victim)
			killed.Store(true)
			<-done
			cl.Restart(victim)
			cl.WaitReady()
			wait.For(t, soon, "all changes to be resolved", func() bool {
				for _, ch := range tried {
					if now, _ := c.Change(ch.ID); now.Phase == traffic.Applying || now.Phase == traffic.UnknownOut {
						return false
					}
				}
				return true
			})
			wrote := checkDocuments(t, cl.App(t), ledger)
			byChange := map[string]bool{}
			for _, id := range wrote {
				byChange[id] = true
			}
			unknown := 0
			for _, ch := range tried {
				now, _ := c.Change(ch.ID)
				if ch.Phase == traffic.UnknownOut {
					unknown++
				}
				// Only the last 64 messages are still there to look at.
				if now.Revision+40 < leaderDoc(t, c, "orders").number() {
					continue
				}
				if in := !now.Written.IsZero(); in != byChange[ch.ID] {
					t.Errorf("change %s ended %s (was %s), but written = %v", ch.ID, now.Phase, ch.Phase, byChange[ch.ID])
				}
			}
			t.Logf("round %d: %d changes around the kill, %d of them unknown for a while", round, len(tried), unknown)
		}
		if kv, _, err := c.born(ctx); err != nil {
			t.Errorf("bucket: %v", err)
		} else if st, err := kv.Status(ctx); err != nil || fmt.Sprint(st.History()) != "64" {
			t.Errorf("status: %v, %v", st, err)
		}
	})
	t.Run("quorum lost", func(t *testing.T) {
		keep := cl.StreamLeader(stream)
		now := leaderDoc(t, c, "orders")
		for i := range 3 {
			if i != keep {
				cl.Kill(i)
			}
		}
		next := edit(now.number(), orders("orders", 7, 93))
		start := time.Now()
		ch, err := c.Apply(ctx, next)
		took := time.Since(start)
		if err == nil {
			t.Fatal("a change was applied without a quorum")
		}
		t.Logf("refused after %v: %v", took.Round(time.Millisecond), err)
		if took > 5*time.Second {
			t.Errorf("the operator waited %v for an answer, want at most 5 s", took)
		}
		for i := range 3 {
			if i != keep {
				cl.Restart(i)
			}
		}
		cl.WaitReady()
		wait.For(t, time.Minute, "what was under way to be resolved and the next change to be taken", func() bool {
			now, err := c.read(ctx, "orders")
			if err != nil {
				return false
			}
			_, err = c.Apply(ctx, edit(now.number(), orders("orders", 8, 92)))
			return err == nil
		})
		if now, _ := c.Change(ch.ID); ch.ID != "" && (now.Phase == traffic.Applying || now.Phase == traffic.UnknownOut) {
			t.Errorf("the change is still %s", now.Phase)
		}
		checkDocuments(t, cl.App(t), ledger)
	})
	stop()
	checkReplay(t, c, ledger)
}

package lb_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/lb"
)

// A program that acts on what happens to its connection, and would rather be
// started anew than wait for ever.
func ExampleConnect() {
	url, stop := exampleSystem()
	defer stop()

	happened := make(chan lb.Event, 16)
	nc, err := lb.Connect(url,
		lb.WithName("shop"),
		lb.WithPing(5*time.Second, 2), // a server that is gone without a word is noticed within 15 s
		lb.WithMaxReconnects(60),      // the default is to try for ever
		lb.WithEvents(func(e lb.Event) {
			select {
			case happened <- e:
			default: // it must not block
			}
		}))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println((<-happened).Kind)
	nc.Close()
	fmt.Println((<-happened).Kind)
	// Output:
	// connected
	// closed
}

// Messages of an urgent class: 1 s an attempt, three more attempts, unless the
// split says otherwise.
func ExamplePublisher_Lane() {
	p, done := exampleService()
	defer done()

	answer, err := p.Lane("high").Request(context.Background(), &nats.Msg{Data: []byte("4711")})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", answer.Data)
	// Output: done: 4711
}

// All messages of a customer go to one target, when the split picks by key; until
// then the key is no harm.
func ExamplePublisher_Key() {
	p, done := exampleService()
	defer done()

	urgent := p.Lane("high").Key("customer-42")
	for _, order := range []string{"4711", "4712"} {
		answer, err := urgent.Request(context.Background(), &nats.Msg{Data: []byte(order)})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Printf("%s\n", answer.Data)
	}
	// Output:
	// done: 4711
	// done: 4712
}

// Many messages on their way at the same time, and every answer looked at.
func ExamplePublisher_PublishAsync() {
	url, stop := exampleSystem()
	defer stop()
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	p, end, err := follow(ctx, url, lb.WithJetStream(jetstream.WithPublishAsyncMaxPending(256)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer end()

	var futures []jetstream.PubAckFuture
	for n := range 1000 {
		// While 256 are unanswered it waits, until ctx ends.
		f, err := p.PublishAsync(ctx, &nats.Msg{Data: fmt.Append(nil, "order ", n)})
		if err != nil {
			fmt.Println(err)
			return
		}
		futures = append(futures, f)
	}
	if err := p.Flush(ctx); err != nil {
		fmt.Println(err)
		return
	}
	stored := 0
	for _, f := range futures {
		select {
		case <-f.Ok():
			stored++
		case err := <-f.Err():
			fmt.Println(err) // this one is to be sent again
		}
	}
	fmt.Println(stored, "stored")
	// Output: 1000 stored
}

// A question to whichever target the weights say.
func ExamplePublisher_Request() {
	p, done := exampleService()
	defer done()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	answer, err := p.Request(ctx, &nats.Msg{Data: []byte("4711")})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("%s\n", answer.Data)
	// Output: done: 4711
}

// A member of a queue group of core NATS, which answers requests.
func ExampleQueueWorker() {
	url, stop := exampleSystem()
	defer stop()
	nc, err := lb.Connect(url, lb.WithName("worker-east-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()

	w, err := lb.NewQueueWorker(nc, lb.QueueConfig{
		Split: "orders", Target: "worker-east-1",
		Subject: "prices.worker-east-1", Group: "workers",
		Concurrency: 8,
		Handler: func(_ context.Context, msg *nats.Msg) error {
			return msg.Respond([]byte("13.37")) // an error would be the answer instead
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background()) // a program's ends by a signal
	ended := make(chan error, 1)
	go func() { ended <- w.Run(ctx) }()

	fmt.Println(ask(nc, "prices.worker-east-1"))
	cancel() // it leaves the group and finishes what it has
	fmt.Println("stopped:", <-ended)
	// Output:
	// 13.37
	// stopped: <nil>
}

// A program that starts while NATS is away divides as the last one did.
func ExampleWithCache() {
	url, stop := exampleSystem()
	defer stop()
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "orders.json") // in a program, a place that outlives it
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	_, end, err := follow(ctx, url, lb.WithCache(file))
	if err != nil {
		fmt.Println(err)
		return
	}
	end()

	away, err := lb.Connect("nats://127.0.0.1:1") // nobody is there, and that is no error
	if err != nil {
		fmt.Println(err)
		return
	}
	defer away.Close()
	p, err := lb.NewPublisher(away, "orders", lb.WithCache(file))
	if err != nil {
		fmt.Println(err)
		return
	}
	rev, known := p.Revision()
	fmt.Println(rev.Number, known, p.Publish(ctx, []byte("kept until there is a server")))
	// Output: 1 true <nil>
}

// follow returns a publisher of split "orders" that follows the document.
func follow(ctx context.Context, url string, opts ...lb.PublisherOption) (p *lb.Publisher, end func(), err error) {
	nc, err := lb.Connect(url)
	if err != nil {
		return nil, nil, err
	}
	if p, err = lb.NewPublisher(nc, "orders", opts...); err != nil {
		nc.Close()
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- p.Run(ctx) }()
	end = func() {
		cancel()
		<-ended
		nc.Close()
	}
	if err := p.Ready(ctx); err != nil {
		end()
		return nil, nil, err
	}
	return p, end, nil
}

// exampleService is a publisher whose target answers requests.
func exampleService() (p *lb.Publisher, done func()) {
	url, stop := exampleServer()
	nc, _ := exampleJetStream(url)
	_, err := nc.Subscribe("orders.process.worker-east-1", func(m *nats.Msg) { _ = m.Respond(append([]byte("done: "), m.Data...)) })
	if err != nil {
		panic(err)
	}
	if err := nc.Flush(); err != nil {
		panic(err)
	}
	p, end, err := follow(context.Background(), url)
	if err != nil {
		panic(err)
	}
	return p, func() {
		end()
		nc.Close()
		stop()
	}
}

// ask asks until somebody is there to answer.
func ask(nc *nats.Conn, subject string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		answer, err := nc.RequestWithContext(ctx, subject, nil)
		switch {
		case err == nil:
			return string(answer.Data)
		case !errors.Is(err, nats.ErrNoResponders):
			return err.Error()
		}
		<-again.C
	}
}

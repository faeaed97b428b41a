package lb_test

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"

	"ballast/internal/natstest"
	"ballast/lb"
	"ballast/traffic"
)

// A service that publishes orders to the targets of split "orders".
func ExamplePublisher() {
	url, stop := exampleSystem()
	defer stop()

	// In a program, the context of signal.NotifyContext.
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	nc, err := lb.Connect(url, lb.WithName("shop"), lb.WithLogger(slog.New(slog.DiscardHandler)))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	p, err := lb.NewPublisher(nc, "orders")
	if err != nil {
		fmt.Println(err)
		return
	}

	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return p.Run(ctx) }) // follows the weights until ctx ends
	g.Go(func() error {
		defer cancel()
		if err := p.Ready(ctx); err != nil {
			return err
		}
		msg := &nats.Msg{
			Data: []byte(`{"id":4711}`),
			Header: nats.Header{
				jetstream.MsgIDHeader: {"order-4711"},  // stored once, however often it is sent
				lb.KeyHeader:          {"customer-42"}, // used when the split picks by key
			},
		}
		ack, err := p.PublishJS(ctx, msg)
		if err != nil {
			return err
		}
		fmt.Printf("%s: message %d of stream %s\n", msg.Subject, ack.Sequence, ack.Stream)
		return nil
	})
	if err := g.Wait(); err != nil {
		fmt.Println(err)
	}
	// Output: orders.process.worker-east-1: message 1 of stream ORDERS
}

// A worker of target "worker-east-1".
func ExampleWorker() {
	url, stop := exampleSystem()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	nc, err := lb.Connect(url, lb.WithName("worker-east-1"))
	if err != nil {
		fmt.Println(err)
		return
	}
	defer nc.Close()
	if err := nc.Publish("orders.process.worker-east-1", []byte("4711")); err != nil {
		fmt.Println(err)
		return
	}

	w, err := lb.NewWorker(nc, lb.WorkerConfig{
		Split: "orders", Target: "worker-east-1",
		Stream: "ORDERS", Consumer: "worker-east-1",
		Concurrency: 8,
		Handler: func(_ context.Context, msg jetstream.Msg) error {
			fmt.Printf("order %s\n", msg.Data())
			cancel()   // a program would stop by a signal
			return nil // acknowledges; an error would have it delivered again
		},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	// At the end of ctx the messages in hand are finished and acknowledged first.
	fmt.Println("stopped:", w.Run(ctx))
	// Output:
	// order 4711
	// stopped: <nil>
}

// exampleSystem is a server with a stream, a consumer and the split, which the
// console would have written.
func exampleSystem() (url string, stop func()) {
	url, stop = exampleServer()
	nc, js := exampleJetStream(url)
	defer nc.Close()
	ctx := context.Background()
	if _, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "ORDERS", Subjects: []string{"orders.process.>"}}); err != nil {
		panic(err)
	}
	_, err := js.CreateConsumer(ctx, "ORDERS", jetstream.ConsumerConfig{
		Durable: "worker-east-1", FilterSubject: "orders.process.worker-east-1", AckPolicy: jetstream.AckExplicitPolicy,
	})
	if err != nil {
		panic(err)
	}
	return url, stop
}

// exampleServer is a server with the split alone.
func exampleServer() (url string, stop func()) {
	srv, stop := natstest.ForExample()
	nc, js := exampleJetStream(srv.ClientURL())
	defer nc.Close()
	ctx := context.Background()
	kv, err := js.CreateKeyValue(ctx, jetstream.KeyValueConfig{Bucket: traffic.Bucket})
	if err != nil {
		panic(err)
	}
	doc, err := traffic.Revision{
		V: traffic.Version, Number: 1, Author: "ana",
		Split: traffic.Split{
			Name: "orders", Subject: "orders.process", Pick: traffic.Weighted,
			Driver: traffic.DriverKV, Mode: traffic.Suggest, Law: traffic.LawCapacity,
			Targets: []traffic.Target{{Name: "worker-east-1", Subject: "orders.process.worker-east-1", Weight: 100, State: traffic.Ready}},
		},
	}.Marshal()
	if err != nil {
		panic(err)
	}
	if _, err := kv.Put(ctx, traffic.Key("orders"), doc); err != nil {
		panic(err)
	}
	return srv.ClientURL(), stop
}

func exampleJetStream(url string) (*nats.Conn, jetstream.JetStream) {
	nc, err := nats.Connect(url)
	if err != nil {
		panic(err)
	}
	js, err := jetstream.New(nc)
	if err != nil {
		panic(err)
	}
	return nc, js
}

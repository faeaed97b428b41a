package lb_test

import (
	"net"
	"sync"
	"sync/atomic"
	"testing"
)

// relay passes bytes between clients and a server.
type relay struct {
	ln     net.Listener
	to     string
	silent atomic.Bool  // swallows what either side sends
	hold   sync.RWMutex // locked, it keeps back what the server sends
}

func newRelay(tb testing.TB, to string) *relay {
	tb.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	r := &relay{ln: ln, to: to}
	var all sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	all.Go(func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return // closed
			}
			srv, err := net.Dial("tcp", to)
			if err != nil {
				client.Close()
				continue
			}
			mu.Lock()
			open = append(open, client, srv)
			mu.Unlock()
			all.Go(func() { r.pass(client, srv, &r.hold) })
			all.Go(func() { r.pass(srv, client, &sync.RWMutex{}) })
		}
	})
	tb.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return r
}

func (r *relay) address() string { return r.ln.Addr().String() }

func (r *relay) pass(to, from net.Conn, hold *sync.RWMutex) {
	defer to.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if n > 0 && !r.silent.Load() {
			hold.RLock()
			_, wrong := to.Write(buf[:n])
			hold.RUnlock()
			if wrong != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

package control

import (
	"context"
	"testing"
)

// BenchmarkApply is one change from the call to the read-back, on one server
// with an in-memory journal. BenchmarkSwap is its baseline: the write alone.
func BenchmarkApply(b *testing.B) {
	c, _ := console(b, Config{Conn: connect(b)})
	mustApply(b, c, edit(0, orders("orders", 50, 50)))
	for i := 0; b.Loop(); i++ {
		w := i%98 + 1
		if w == 50 {
			w = 99
		}
		mustApply(b, c, edit(uint64(i+1), orders("orders", w, 100-w)))
	}
}

func BenchmarkSwap(b *testing.B) {
	c, _ := console(b, Config{Conn: connect(b)})
	mustApply(b, c, edit(0, orders("orders", 50, 50)))
	now := leaderDoc(b, c, "orders")
	token := now.token
	for b.Loop() {
		var err error
		if token, err = c.swap(context.Background(), "orders", now.change, now.raw, token); err != nil {
			b.Fatal(err)
		}
	}
}

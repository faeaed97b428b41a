package ports

import (
	"fmt"
	"net"
	"testing"
)

func TestFreePortsDifferAndCanBeListenedOn(t *testing.T) {
	free, err := Free(50)
	if err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range free {
		if p < low || p >= high || seen[p] {
			t.Errorf("port %d is out of range or was found twice", p)
		}
		seen[p] = true
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", p))
		if err != nil {
			t.Errorf("listen on port %d: %v", p, err)
			continue
		}
		l.Close()
	}
	if len(seen) != 50 {
		t.Errorf("%d different ports, want 50", len(seen))
	}
}

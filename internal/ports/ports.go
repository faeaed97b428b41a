// Package ports finds free ports of the loopback interface for servers that
// must know each other's before they start. It keeps none of them: whoever
// needs just one port listens on port 0 instead.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
)

// Systems give ports from 32768 up to outgoing connections, of which a bed has
// thousands: one of those could take the place of a server that is about to
// start, or to be restarted.
const low, high = 15000, 32000

// Free returns n different free ports of 127.0.0.1.
func Free(n int) ([]int, error) {
	var free []int
	for tries := 0; len(free) < n; tries++ {
		l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", low+rand.IntN(high-low)))
		if err != nil {
			if tries > 100*n {
				return nil, fmt.Errorf("find %d free ports on 127.0.0.1: %w", n, err)
			}
			continue
		}
		// Held until all are found, so that no port is found twice.
		defer l.Close()
		free = append(free, l.Addr().(*net.TCPAddr).Port)
	}
	return free, nil
}

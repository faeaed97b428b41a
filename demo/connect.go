package demo

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"

	"github.com/nats-io/nats.go"

	"ballast/lb"
)

// connect connects to the account of the workload. Home is the index of the
// server that is tried first: the workload's connections are spread over all
// servers.
func (c *cluster) connect(name string, home int, log *slog.Logger) (*nats.Conn, error) {
	urls := c.clientURLs()
	i := home % len(urls)
	nc, err := lb.Connect(strings.Join(slices.Concat(urls[i:], urls[:i]), ","),
		lb.WithName(name),
		lb.WithUser(appUser, c.appPassword),
		lb.WithLogger(log.With("connection", name)),
		lb.WithNATSOptions(nats.DontRandomize()))
	if err != nil {
		return nil, fmt.Errorf("connect %s: %w", name, err)
	}
	return nc, nil
}

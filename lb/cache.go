package lb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"ballast/internal/wholefile"
	"ballast/traffic"
)

// readCache brings the cached document into force.
func (p *Publisher) readCache() {
	if p.cache == "" {
		return
	}
	doc, err := os.ReadFile(p.cache)
	if errors.Is(err, fs.ErrNotExist) {
		return // the first start
	}
	var rev traffic.Revision
	if err == nil {
		rev, err = traffic.Parse(doc)
	}
	if err == nil && rev.Split.Name != p.name {
		err = fmt.Errorf("the document is of split %q", rev.Split.Name)
	}
	if err == nil {
		err = p.install(rev, false)
	}
	if err != nil {
		p.log.Warn("the cached weights cannot be used", "file", p.cache, "err", err)
		return
	}
	p.log.Info("weights are in force as cached", "file", p.cache, "epoch", rev.Epoch, "revision", rev.Number)
}

// writeCache keeps the document for the next start. What goes wrong is logged: a
// full disk must not stop messages.
func (p *Publisher) writeCache(ctx context.Context, doc []byte) {
	if p.cache == "" {
		return
	}
	if err := wholefile.Write(p.cache, doc, 0o600); err != nil {
		p.log.WarnContext(ctx, "the weights cannot be cached", "err", err)
	}
}

package lb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

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
	if err := replace(p.cache, doc); err != nil {
		p.log.WarnContext(ctx, "the weights cannot be cached", "err", err)
	}
}

// replace writes a file as a whole or not at all.
func replace(file string, data []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", file, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", file, err), os.Remove(tmp.Name()))
		}
	}()
	if _, err = tmp.Write(data); err == nil {
		err = tmp.Sync()
	}
	if err = errors.Join(err, tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

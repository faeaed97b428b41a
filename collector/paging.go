package collector

import (
	"errors"
	"maps"
)

const (
	// pageAbove is the size of an answer with all streams and consumers beyond
	// which a server is asked for some accounts at a time. It holds an answer in
	// memory three times until it is sent.
	pageAbove = 8 << 20
	// firstPages is in how many parts one is asked for whose answer was too large,
	// so that its size is not known.
	firstPages = 8
)

var errAccountsMoved = errors.New("accounts came or went while they were read in parts")

// inPages asks for all accounts of a server, limit of them at a time; 0 is all
// at once. ask returns how many there are. As long as an answer is too large,
// it begins anew with fewer at a time; one account cannot be divided. It returns
// the limit that did.
func inPages(limit int, begin func(), count func() (int, error), ask func(limit, offset int) (int, error)) (int, error) {
	for {
		begin()
		err := allPages(limit, ask)
		if !errors.Is(err, errTooLarge) || limit == 1 {
			return limit, err
		}
		if limit > 1 {
			limit /= 2
			continue
		}
		n, countErr := count()
		if countErr != nil || n < 2 {
			return limit, err
		}
		limit = max(1, n/firstPages)
	}
}

func allPages(limit int, ask func(limit, offset int) (int, error)) error {
	for offset := 0; ; offset += limit {
		total, err := ask(limit, offset)
		if err != nil {
			return err
		}
		if limit == 0 || offset+limit >= total {
			return nil
		}
	}
}

// pageNext is how many accounts to ask for at a time the next time, when size
// bytes told of that many; limit is what did now.
func pageNext(limit int, size int64, accounts int, above int64) int {
	if accounts < 2 || size <= above/2 || limit == 0 && size <= above {
		return 0
	}
	next := max(1, int(int64(accounts)*(above/2)/size))
	if limit > 0 {
		next = min(next, limit)
	}
	return next
}

// join adds the next accounts of the same server.
func (a *assets) join(p *assets) error {
	if a.held.Accounts != p.held.Accounts {
		return errAccountsMoved
	}
	a.size += p.size
	a.cpu += p.cpu
	a.streams = append(a.streams, p.streams...)
	a.consumers = append(a.consumers, p.consumers...)
	maps.Copy(a.reserved, p.reserved)
	maps.Copy(a.elsewhereStreams, p.elsewhereStreams)
	maps.Copy(a.elsewhereConsumers, p.elsewhereConsumers)
	return nil
}

package store

import (
	"bytes"
	"context"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"

	"github.com/klauspost/compress/zstd"

	"ballast/fleet"
)

// What pages show and is neither a figure in time nor the setting of one thing
// is recorded as lists: the busiest connections, instances of micro services,
// queue groups, problems. Each list is a JSON document of bounded size, noted
// about once a minute if it changed and compressed against the first of its
// hour, which has nearly the same names; what does not answer, at the look in
// which that changed.

// list is one of the lists. Numbers are never used again.
type list byte

const (
	listRound     list = 1 // what did not answer, and how much of the rest was seen
	listConns     list = 2
	listConnSums  list = 3
	listServices  list = 4
	listQueues    list = 5
	listInternals list = 6 // of the servers
	listOrigins   list = 7 // of streams
	listMarks     list = 8 // of consumers
)

// maxDetail bounds one list, before it is compressed.
const maxDetail = 1 << 20

// listed is a list as it is recorded: the first of what there was.
type listed[T any] struct {
	Of   int `json:",omitempty"` // how many there were, if more
	List []T
}

type roundDetail struct {
	Problems  []fleet.Problem
	Silent    []fleet.Server // that did not answer: what was known of them
	Expected  int
	QueuesCut fleet.QueuesCut
	Every     int // of fleet.Intake, as Share and Since
	Share     float64
	Since     int64
}

type internalsDetail struct {
	Server string // ID
	*fleet.Internals
}

type originsDetail struct {
	fleet.StreamKey
	Mirror  *fleet.Origin
	Origins []fleet.Origin
}

type marksDetail struct {
	fleet.ConsumerKey
	Groups []fleet.PriorityGroup
	Misfit string
	Fold   *fleet.Fold
}

func roundOf(s *fleet.Snapshot) roundDetail {
	r := roundDetail{Problems: s.Problems, Expected: s.Expected, QueuesCut: s.QueuesCut, Every: s.Intake.Every, Share: s.Intake.Share, Since: epochOf(s.Intake.Since)}
	for _, x := range s.Servers {
		if x.State == fleet.Unreachable || x.State == fleet.Unread {
			r.Silent = append(r.Silent, x)
		}
	}
	return r
}

// same reports whether nothing changed that is worth a note. Where a server that
// does not answer stood is known by when it answered last; the share of the time in
// which samples are listened to is set anew every few seconds, and a tenth is as
// much as its figures tell.
func (r roundDetail) same(o roundDetail) bool {
	silent := func(a, b fleet.Server) bool {
		return a.ID == b.ID && a.Name == b.Name && a.State == b.State && a.Error == b.Error && a.At.Equal(b.At)
	}
	return slices.Equal(r.Problems, o.Problems) && slices.EqualFunc(r.Silent, o.Silent, silent) && r.Expected == o.Expected &&
		r.QueuesCut.Groups == o.QueuesCut.Groups && slices.Equal(r.QueuesCut.Servers, o.QueuesCut.Servers) && r.Every == o.Every && r.Since == o.Since &&
		math.Round(10*r.Share) == math.Round(10*o.Share)
}

func internalsOf(s *fleet.Snapshot) (out []internalsDetail) {
	for _, x := range s.Servers {
		if x.Internals != nil {
			out = append(out, internalsDetail{x.ID, x.Internals})
		}
	}
	return out
}

func originsOf(s *fleet.Snapshot) (out []originsDetail) {
	for _, x := range s.Streams {
		if x.Mirror != nil || x.Origins != nil {
			out = append(out, originsDetail{x.StreamKey, x.Mirror, x.Origins})
		}
	}
	return out
}

func marksOf(s *fleet.Snapshot) (out []marksDetail) {
	for _, x := range s.Consumers {
		if x.Groups != nil || x.Misfit != "" || x.Fold != nil {
			out = append(out, marksDetail{x.ConsumerKey, x.Groups, x.Misfit, x.Fold})
		}
	}
	return out
}

// encodeList writes a list, or as many of its first as there is room for; slim
// makes one smaller, if that is tried before some are left out.
func encodeList[T any](all []T, slim func(T) T) ([]byte, error) {
	l := listed[T]{List: all}
	for {
		data, err := json.Marshal(l)
		if err != nil || len(data) <= maxDetail {
			return data, err
		}
		if slim != nil {
			l.List = slices.Clone(all)
			for i := range l.List {
				l.List[i] = slim(l.List[i])
			}
			slim = nil
			continue
		}
		l.Of, l.List = len(all), l.List[:len(l.List)/2]
	}
}

// slimQueue lists of a large group only the members that get nothing first.
func slimQueue(g fleet.QueueGroup) fleet.QueueGroup {
	g.Members = g.Members[:min(len(g.Members), 8)]
	return g
}

// slimService leaves out what an instance adds of its own.
func slimService(s fleet.Service) fleet.Service {
	s.Endpoints = slices.Clone(s.Endpoints[:min(len(s.Endpoints), 16)])
	for i := range s.Endpoints {
		s.Endpoints[i].Data = nil
	}
	return s
}

// encodeDetail writes a list of the snapshot.
func encodeDetail(t list, s *fleet.Snapshot) ([]byte, error) {
	switch t {
	case listConns:
		return encodeList(s.Conns, nil)
	case listConnSums:
		return encodeList(s.ConnSums, nil)
	case listServices:
		return encodeList(s.Services, slimService)
	case listQueues:
		return encodeList(s.Queues, slimQueue)
	case listInternals:
		return encodeList(internalsOf(s), nil)
	case listOrigins:
		return encodeList(originsOf(s), nil)
	case listMarks:
		return encodeList(marksOf(s), nil)
	}
	return nil, fmt.Errorf("there is no list %d", t)
}

// slowLists are noted about once a minute.
var slowLists = []list{listConns, listConnSums, listServices, listQueues, listInternals, listOrigins, listMarks}

// roundNote is what did not answer from a look on.
type roundNote struct {
	at int64
	roundDetail
}

// maxNotes bounds those that are not on disk yet; it holds some minutes in which
// the disk refuses.
const maxNotes = 64

// detailNotes is what was noted last, to note only what changed. mu guards notes
// and round; the rest belongs to the one who notes (DB.attrMu).
type detailNotes struct {
	notes []roundNote // not on disk yet, oldest first; guarded by DB.mu
	round *roundDetail

	last  map[list][]byte
	at    map[list]int64
	bases map[list]detailBase
}

// detailBase is the document that those of an hour are compressed against.
type detailBase struct {
	hour int64
	k    int64
	data []byte
}

// noteRound keeps what changed in what does not answer. The caller holds mu.
func (db *DB) noteRound(s *fleet.Snapshot, taken int64) {
	r := roundOf(s)
	if before := db.details.round; before != nil && before.same(r) {
		return
	}
	db.details.round = &r
	if len(db.details.notes) >= maxNotes {
		db.details.notes = slices.Delete(db.details.notes, 0, 1)
	}
	db.details.notes = append(db.details.notes, roundNote{taken, r})
	db.born.Store(true)
}

// slowDetails is how far two notes of a list are apart, a little less than a
// minute, for the job that notes comes about every minute.
const slowDetails = minute - 10_000

// noteDetails records the lists that are not those noted last.
func (db *DB) noteDetails(ctx context.Context) error {
	s := db.Latest()
	if s.TakenAt.IsZero() {
		return nil
	}
	db.attrMu.Lock()
	defer db.attrMu.Unlock()
	n := &db.details
	if n.last == nil {
		n.last, n.at, n.bases = map[list][]byte{}, map[list]int64{}, map[list]detailBase{}
	}
	now := ms(s.TakenAt)
	type note struct {
		list
		at   int64
		data []byte
		row  []byte
	}
	var fresh []note
	db.mu.RLock()
	pending := slices.Clone(n.notes)
	round := n.round
	db.mu.RUnlock()
	for _, r := range pending {
		data, err := json.Marshal(r.roundDetail)
		if err != nil {
			return fmt.Errorf("note what does not answer: %w", err)
		}
		fresh = append(fresh, note{list: listRound, at: r.at, data: data})
	}
	// The first in an hour is noted in any case: a reader looks back no further.
	if len(pending) == 0 && round != nil && n.at[listRound]/hour != now/hour {
		data, err := json.Marshal(round)
		if err != nil {
			return fmt.Errorf("note what does not answer: %w", err)
		}
		fresh = append(fresh, note{list: listRound, at: now, data: data})
	}
	for _, t := range slowLists {
		anew := n.at[t]/hour != now/hour
		if !anew && now-n.at[t] < slowDetails {
			continue
		}
		data, err := encodeDetail(t, s)
		if err != nil {
			return fmt.Errorf("note list %d: %w", t, err)
		}
		if anew || !bytes.Equal(data, n.last[t]) {
			fresh = append(fresh, note{list: t, at: now, data: data})
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	bases := maps.Clone(n.bases)
	for i := range fresh {
		f := &fresh[i]
		b := bases[f.list]
		own := b.data == nil || b.hour != f.at/hour
		if own {
			b = detailBase{hour: f.at / hour, k: detailKey(f.at, f.list), data: f.data}
			bases[f.list] = b
		}
		var err error
		if f.row, err = packDetail(f.data, b, own); err != nil {
			return fmt.Errorf("note list %d: %w", f.list, err)
		}
	}
	run := context.WithoutCancel(ctx)
	err := inTx(run, db.metrics.w, func(tx *sql.Tx) error {
		for _, f := range fresh {
			if _, err := tx.ExecContext(run, "INSERT OR REPLACE INTO detail(k, d) VALUES (?, ?)", detailKey(f.at, f.list), f.row); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("note %d lists: %w", len(fresh), err)
	}
	n.bases = bases
	for _, f := range fresh {
		n.last[f.list], n.at[f.list] = f.data, f.at
	}
	n.last[listRound] = nil // it is compared before it is written out
	db.mu.Lock()
	defer db.mu.Unlock()
	n.notes = slices.DeleteFunc(n.notes, func(r roundNote) bool {
		return slices.ContainsFunc(pending, func(p roundNote) bool { return p.at == r.at })
	})
	return nil
}

func detailKey(at int64, t list) int64 {
	return at/hour<<entityBits | at%hour<<8 | int64(t)
}

func detailAt(k int64) (at int64, t list) {
	return k>>entityBits*hour + k&entityMask>>8, list(k & 0xff)
}

// A row of detail is version, key of the row that it is compressed against (0:
// of none), and the document.
const detailVersion = 1

// detailWindow is how far apart what is alike may lie: in two documents.
const detailWindow = 2 << 20

func packDetail(data []byte, base detailBase, own bool) ([]byte, error) {
	o := []zstd.EOption{zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(detailWindow), zstd.WithEncoderCRC(true)}
	row := []byte{detailVersion}
	if own {
		row = binary.AppendUvarint(row, 0)
	} else {
		row = binary.AppendUvarint(row, uint64(base.k))
		o = append(o, zstd.WithEncoderDictRaw(1, base.data))
	}
	enc, err := zstd.NewWriter(nil, o...)
	if err != nil {
		return nil, err
	}
	return enc.EncodeAll(data, row), enc.Close()
}

// unpackDetail reads a row; base returns the document of another row.
func unpackDetail(row []byte, base func(k int64) ([]byte, error)) ([]byte, error) {
	d := decoder{b: row}
	if d.byte() != detailVersion {
		return nil, errCorrupt
	}
	k := int64(d.uvarint())
	if d.err != nil {
		return nil, d.err
	}
	o := []zstd.DOption{zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(4 * maxDetail), zstd.WithDecoderMaxWindow(4 * detailWindow)}
	if k != 0 {
		whole, err := base(k)
		if err != nil {
			return nil, err
		}
		o = append(o, zstd.WithDecoderDictRaw(1, whole))
	}
	dec, err := zstd.NewReader(nil, o...)
	if err != nil {
		return nil, err
	}
	defer dec.Close()
	data, err := dec.DecodeAll(d.b, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errCorrupt, err)
	}
	return data, nil
}

// detailsAt adds the lists as they were noted up to a moment, of the same hour or
// the one before. It reports whether it is known what did not answer.
func (db *DB) detailsAt(ctx context.Context, s *fleet.Snapshot, at int64) (known bool, err error) {
	keys, err := db.detailKeys(ctx, at)
	if err != nil {
		return false, fmt.Errorf("find the lists: %w", err)
	}
	docs := map[int64][]byte{}
	var read func(k int64) ([]byte, error)
	read = func(k int64) ([]byte, error) {
		if data, ok := docs[k]; ok {
			return data, nil
		}
		var row []byte
		if err := db.metrics.r.QueryRowContext(ctx, "SELECT d FROM detail WHERE k = ?", k).Scan(&row); err != nil {
			return nil, err
		}
		depth := 0
		data, err := unpackDetail(row, func(base int64) ([]byte, error) {
			if depth++; base >= k || depth > 1 {
				return nil, errCorrupt
			}
			return read(base)
		})
		if err == nil {
			docs[k] = data
		}
		return data, err
	}
	var round *roundDetail
	for _, t := range append([]list{listRound}, slowLists...) {
		k, ok := keys[t]
		if !ok {
			continue
		}
		data, err := read(k)
		if errors.Is(err, sql.ErrNoRows) {
			continue // what it stands on was dropped in the meantime
		}
		if err == nil {
			if t == listRound {
				round = &roundDetail{}
				err = json.Unmarshal(data, round)
			} else {
				err = addDetail(t, data, s)
			}
		}
		if err != nil {
			when, _ := detailAt(k)
			return false, fmt.Errorf("read list %d of %s: %w", t, fromMS(when).Format("15:04:05"), err)
		}
	}
	db.mu.RLock()
	for i := range db.details.notes {
		if r := &db.details.notes[i]; r.at <= at {
			round = &r.roundDetail
		}
	}
	db.mu.RUnlock()
	if round == nil {
		return false, nil
	}
	round.add(s)
	return true, nil
}

// detailKeys are the newest rows of each list.
func (db *DB) detailKeys(ctx context.Context, at int64) (map[list]int64, error) {
	rows, err := db.metrics.r.QueryContext(ctx, "SELECT k FROM detail WHERE k >= ?1 AND k <= ?2 ORDER BY k",
		detailKey(floor(at, hour)-hour, 0), detailKey(at, 0xff))
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	keys := map[list]int64{}
	for rows.Next() {
		var k int64
		if err := rows.Scan(&k); err != nil {
			return nil, err
		}
		_, t := detailAt(k)
		keys[t] = k
	}
	return keys, rows.Err()
}

// add puts what did not answer into the snapshot.
func (r *roundDetail) add(s *fleet.Snapshot) {
	s.Problems, s.Expected, s.QueuesCut = append(slices.Clone(r.Problems), s.Problems...), r.Expected, r.QueuesCut
	s.Intake.Every, s.Intake.Share = r.Every, r.Share
	if r.Since != 0 {
		s.Intake.Since = fromMS(r.Since)
	}
	silent := map[string]bool{}
	for _, x := range r.Silent {
		silent[x.Name] = true
	}
	s.Servers = slices.DeleteFunc(s.Servers, func(x fleet.Server) bool {
		return silent[x.Name] || x.At.IsZero() // one that is not said to be silent was not there any more
	})
	s.Servers = append(s.Servers, r.Silent...)
}

// decodeList reads a list and says if it is not whole.
func decodeList[T any](data []byte, s *fleet.Snapshot, what string) ([]T, error) {
	var l listed[T]
	if err := json.Unmarshal(data, &l); err != nil {
		return nil, err
	}
	if l.Of > len(l.List) {
		s.Problems = append(s.Problems, fleet.Problem{Where: "store", Since: s.TakenAt,
			What: fmt.Sprintf("Of that time only the first %d of %d %s are recorded.", len(l.List), l.Of, what), Hint: "A list is recorded up to a size."})
	}
	return l.List, nil
}

func addDetail(t list, data []byte, s *fleet.Snapshot) (err error) {
	switch t {
	case listConns:
		s.Conns, err = decodeList[fleet.Conn](data, s, "connections")
	case listConnSums:
		s.ConnSums, err = decodeList[fleet.ConnSum](data, s, "sums of connections")
	case listServices:
		s.Services, err = decodeList[fleet.Service](data, s, "instances of micro services")
	case listQueues:
		s.Queues, err = decodeList[fleet.QueueGroup](data, s, "queue groups")
	case listInternals:
		var list []internalsDetail
		if list, err = decodeList[internalsDetail](data, s, "servers' internals"); err != nil {
			return err
		}
		for _, x := range list {
			for i := range s.Servers {
				if s.Servers[i].ID == x.Server {
					s.Servers[i].Internals = x.Internals
				}
			}
		}
	case listOrigins:
		var list []originsDetail
		if list, err = decodeList[originsDetail](data, s, "mirrors and sources"); err != nil {
			return err
		}
		by := make(map[fleet.StreamKey]*originsDetail, len(list))
		for i := range list {
			by[list[i].StreamKey] = &list[i]
		}
		for i := range s.Streams {
			if x := by[s.Streams[i].StreamKey]; x != nil {
				s.Streams[i].Mirror, s.Streams[i].Origins = x.Mirror, x.Origins
			}
		}
	case listMarks:
		var list []marksDetail
		if list, err = decodeList[marksDetail](data, s, "consumers' groups"); err != nil {
			return err
		}
		by := make(map[fleet.ConsumerKey]*marksDetail, len(list))
		for i := range list {
			by[list[i].ConsumerKey] = &list[i]
		}
		for i := range s.Consumers {
			if x := by[s.Consumers[i].ConsumerKey]; x != nil {
				s.Consumers[i].Groups, s.Consumers[i].Misfit, s.Consumers[i].Fold = x.Groups, x.Misfit, x.Fold
			}
		}
	}
	return err
}

// stirred reports whether a server is in another state than at the look before:
// that is noted at once, not with the next minute.
func (db *DB) stirred(s *fleet.Snapshot) bool {
	return !slices.EqualFunc(s.Servers, db.Latest().Servers, func(a, b fleet.Server) bool {
		return a.Name == b.Name && a.State == b.State && a.Error == b.Error && a.Health == b.Health
	})
}

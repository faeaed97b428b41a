package control

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"ballast/fleet"
	"ballast/traffic"
)

const (
	stream  = "KV_" + traffic.Bucket
	history = 64 // the most that a KV bucket keeps of a key

	// changeHeader names the change that wrote a message. A delete marker has no
	// document that could name it.
	changeHeader = "Ballast-Change"
	opHeader     = "KV-Operation"
)

func subject(split string) string { return "$KV." + traffic.Bucket + "." + traffic.Key(split) }

// record is what the stream's leader has under a split's key.
type record struct {
	bucket  bool             // the bucket exists
	deleted bool             // the last word is a delete marker
	rev     traffic.Revision // zero when there is no document
	token   uint64           // sequence of the document or marker, 0 when there is neither
	change  string           // that wrote it
	raw     []byte
	at      time.Time
}

// number is the revision in force, 0 when there is none.
func (r record) number() uint64 { return r.rev.Number }

// inForce is the document in force, nil when there is none.
func (r record) inForce() []byte {
	if r.rev.Number == 0 {
		return nil
	}
	return r.raw
}

// errUnreadable says that the document in the KV is not one of ours.
var errUnreadable = errors.New("the document in the KV bucket is not valid")

// read asks the stream's leader for what is under the split's key. A read of
// any replica may be old without saying so, for as long as a partition lasts,
// so nothing else decides.
func (c *Control) read(ctx context.Context, split string) (record, error) {
	if c.cfg.Conn == nil {
		return record{}, noConn()
	}
	if !c.cfg.Conn.IsConnected() {
		// A request would only sit in the reconnect buffer until it times out.
		return record{}, c.offline()
	}
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	ask, err := json.Marshal(map[string]string{"last_by_subj": subject(split)})
	if err != nil {
		return record{}, fmt.Errorf("encode leader read: %w", err)
	}
	msg, err := c.cfg.Conn.RequestWithContext(ctx, "$JS.API.STREAM.MSG.GET."+stream, ask)
	if err != nil {
		return record{}, unreachable(fmt.Errorf("leader read of %s: %w", subject(split), err))
	}
	var answer struct {
		Error   *jetstream.APIError `json:"error"`
		Message struct {
			Seq  uint64    `json:"seq"`
			Hdrs []byte    `json:"hdrs"`
			Data []byte    `json:"data"`
			Time time.Time `json:"time"`
		} `json:"message"`
	}
	if err := json.Unmarshal(msg.Data, &answer); err != nil {
		return record{}, fmt.Errorf("parse leader read of %s: %w", subject(split), err)
	}
	if e := answer.Error; e != nil {
		switch e.ErrorCode {
		case jetstream.JSErrCodeStreamNotFound:
			return record{}, nil
		case jetstream.JSErrCodeMessageNotFound:
			return record{bucket: true}, nil
		}
		return record{}, unreachable(fmt.Errorf("leader read of %s: %w", subject(split), e))
	}
	m := answer.Message
	r := record{bucket: true, token: m.Seq, raw: m.Data, at: m.Time}
	if len(m.Hdrs) > 0 {
		h, err := nats.DecodeHeadersMsg(m.Hdrs)
		if err != nil {
			return record{}, fmt.Errorf("parse headers of %s: %w", subject(split), err)
		}
		r.change = h.Get(changeHeader)
		r.deleted = h.Get(opHeader) != ""
	}
	if r.deleted {
		return r, nil
	}
	r.rev, err = parse(split, m.Data)
	if err != nil {
		return r, &fleet.Error{
			Kind: fleet.Unavailable,
			Msg:  fmt.Sprintf("The document of split %s in the KV was not written by Ballast and is not valid.", split),
			Hint: fmt.Sprintf("Readers keep their last good one. Look at it with: nats kv get %s %s", traffic.Bucket, traffic.Key(split)),
			Err:  fmt.Errorf("%w: %w", errUnreadable, err),
		}
	}
	r.rev.Token, r.change = m.Seq, r.rev.Change
	return r, nil
}

func parse(split string, doc []byte) (traffic.Revision, error) {
	rev, err := traffic.Parse(doc)
	if err == nil && rev.Split.Name != split {
		err = fmt.Errorf("the document under %s is of split %q", traffic.Key(split), rev.Split.Name)
	}
	return rev, err
}

// errRefused says that the leader did not take a write because something else
// was written since the base was read. No other error is proof of that.
var errRefused = errors.New("something else was written since")

// errNobody says that no stream heard the write.
var errNobody = errors.New("no stream listens")

// errDenied says that the server refused the write for want of permission.
var errDenied = errors.New("the server refuses it")

// swap writes a document, or a delete marker when doc is nil, if token is still
// the last sequence of the split's key.
func (c *Control) swap(ctx context.Context, split, change string, doc []byte, token uint64) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, c.writeTimeout)
	defer cancel()
	if !c.cfg.Conn.IsConnected() {
		// A publish would wait in the reconnect buffer and could land long after
		// everybody gave up on it.
		return 0, errNobody
	}
	m := nats.NewMsg(subject(split))
	m.Data = doc
	m.Header.Set(changeHeader, change)
	if doc == nil {
		m.Header.Set(opHeader, "DEL")
	}
	said := c.cfg.Conn.LastError()
	ack, err := c.js.PublishMsg(ctx, m, jetstream.WithExpectLastSequencePerSubject(token))
	var api *jetstream.APIError
	switch {
	case err == nil:
		return ack.Sequence, nil
	case errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant):
		return 0, fmt.Errorf("%w: %w", errRefused, err)
	case errors.Is(err, jetstream.ErrNoStreamResponse):
		return 0, fmt.Errorf("%w: %w", errNobody, err)
	}
	// A refused publish times out; the reason comes on the side. Only one that
	// was not there before the write is about this write.
	if now := c.cfg.Conn.LastError(); now != said && errors.Is(now, nats.ErrPermissionViolation) && strings.Contains(now.Error(), fmt.Sprintf("Publish to %q", m.Subject)) {
		return 0, fmt.Errorf("%w: %w", errDenied, now)
	}
	return 0, fmt.Errorf("write %s: %w", subject(split), err)
}

// Codes of nats-server that say "not with so many replicas".
const (
	codeNoPeers               jetstream.ErrorCode = 10005
	codeInsufficientResources jetstream.ErrorCode = 10023
	codeReplicasNotSupported  jetstream.ErrorCode = 10074
)

// createBucket creates the bucket, with as many replicas as the cluster allows
// unless a number is configured. One that is there already is left as it is.
func (c *Control) createBucket(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	replicas := []int{3, 2, 1}
	if c.cfg.Replicas > 0 {
		replicas = []int{c.cfg.Replicas}
	}
	var err error
	for _, n := range replicas {
		_, err = c.js.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket:       traffic.Bucket,
			Description:  "Traffic splits of Ballast",
			MaxValueSize: traffic.MaxDocument,
			History:      history,
			Storage:      jetstream.FileStorage,
			Replicas:     n,
		})
		var api *jetstream.APIError
		switch {
		case err == nil:
			c.log.InfoContext(ctx, "bucket created", "bucket", traffic.Bucket, "replicas", n)
			select {
			case c.wake <- struct{}{}:
			default:
			}
			return nil
		case errors.Is(err, jetstream.ErrBucketExists):
			return nil
		case !errors.As(err, &api) || api.ErrorCode != codeNoPeers && api.ErrorCode != codeInsufficientResources && api.ErrorCode != codeReplicasNotSupported:
			return unavailable("The KV bucket "+traffic.Bucket+" could not be created.",
				"Check that JetStream has a leader and that this user may create it.", fmt.Errorf("create bucket: %w", err))
		}
	}
	return unavailable("The KV bucket "+traffic.Bucket+" could not be created.",
		"JetStream has not the peers or the space for it.", fmt.Errorf("create bucket: %w", err))
}

// unreachable says why the KV does not answer.
func unreachable(err error) *fleet.Error {
	var api *jetstream.APIError
	switch {
	case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled):
		return unavailable("JetStream does not answer.", "Check that it is enabled for this account and that its cluster has a leader; an election takes up to nine seconds.", err)
	case errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabledForAccount || api.ErrorCode == jetstream.JSErrCodeJetStreamNotEnabled):
		return unavailable("JetStream is not enabled for this account.", "Enable it, or use the credentials of an account that has it.", err)
	}
	return unavailable("The KV bucket "+traffic.Bucket+" does not answer.",
		"Its leader may be gone (an election takes up to nine seconds), or this user's permissions refuse the request.", err)
}

// checkEvery is how often the follower makes sure that the bucket it follows is
// still the one that is there: a watch on a deleted stream stays silent.
const checkEvery = 2 * time.Second

// follow keeps the picture of the splits up to date until ctx ends. The picture
// is for display; it outlives an unreachable or vanished bucket.
func (c *Control) follow(ctx context.Context) error {
	for {
		err := c.watch(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.setTrouble(ctx, err)
		wait := checkEvery
		if !c.cfg.Conn.IsConnected() {
			wait /= 10 // asking the connection costs nobody anything
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// setTrouble keeps what the operator shall know and logs it when it is news.
func (c *Control) setTrouble(ctx context.Context, err error) {
	c.mu.Lock()
	before := c.trouble
	c.trouble = err
	c.mu.Unlock()
	switch {
	case err != nil && (before == nil || words(before) != words(err)):
		c.log.WarnContext(ctx, "the KV does not serve", "err", err)
	case err == nil && before != nil:
		c.log.InfoContext(ctx, "the KV serves")
	}
}

// unlisted reports whether the servers list no such bucket. Asking for what is
// not there counts as an error of their API, and a console must not make a
// system look ill; a list of names never does. Who may not list them does not
// know.
func (c *Control) unlisted(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	_, err := c.js.StreamNameBySubject(ctx, "$KV."+traffic.Bucket+".>")
	return errors.Is(err, jetstream.ErrStreamNotFound)
}

// born returns when the bucket's stream was created; nothing when there is none.
func (c *Control) born(ctx context.Context) (kv jetstream.KeyValue, at time.Time, err error) {
	if !c.cfg.Conn.IsConnected() {
		return nil, time.Time{}, c.offline()
	}
	if c.absent.Load() && c.unlisted(ctx) {
		return nil, time.Time{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	kv, err = c.js.KeyValue(ctx, traffic.Bucket)
	c.absent.Store(errors.Is(err, jetstream.ErrBucketNotFound))
	if c.absent.Load() {
		return nil, time.Time{}, nil
	}
	if err != nil {
		return nil, time.Time{}, unreachable(fmt.Errorf("look up bucket %s: %w", traffic.Bucket, err))
	}
	st, err := kv.Status(ctx)
	if err != nil {
		return nil, time.Time{}, unreachable(fmt.Errorf("look up bucket %s: %w", traffic.Bucket, err))
	}
	bs, ok := st.(*jetstream.KeyValueBucketStatus)
	if !ok || bs.StreamInfo() == nil {
		return nil, time.Time{}, fmt.Errorf("look up bucket %s: no stream information", traffic.Bucket)
	}
	info := bs.StreamInfo()
	if info.Cluster != nil && info.Cluster.Leader == "" {
		err = unavailable("The KV bucket "+traffic.Bucket+" has no leader.", "An election takes up to nine seconds; weights in force stay as they are.", nil)
	}
	return kv, info.Created, err
}

// watch follows the bucket for as long as it is the same one, and returns why
// it stopped; nil when the bucket is not there, which is how a system looks
// before its first split.
func (c *Control) watch(ctx context.Context) error {
	kv, created, err := c.born(ctx)
	if err != nil {
		return err
	}
	if kv == nil {
		c.mu.Lock()
		known := len(c.splits)
		c.mu.Unlock()
		if known > 0 {
			return unavailable("The KV bucket "+traffic.Bucket+" has vanished.",
				"Applications keep their last good weights. It is not created again by itself: restore it from a backup, or save a split to start a new one.", nil)
		}
		return nil
	}
	c.mu.Lock()
	if !c.followed.Equal(created) { // the sequences of another stream start anew
		c.followed = created
		clear(c.gone)
		for name, rev := range c.splits {
			rev.Token = 0
			c.splits[name] = rev
		}
	}
	c.mu.Unlock()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := kv.Watch(ctx, traffic.Key("*"), jetstream.IncludeHistory())
	if err != nil {
		return unreachable(fmt.Errorf("watch bucket %s: %w", traffic.Bucket, err))
	}
	defer w.Stop()
	seen := map[string]bool{}
	told := map[string][]traffic.Revision{} // histories, until all that was there has been told
	first := true
	tick := time.NewTicker(checkEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.Updates():
			switch {
			case !ok:
				return unavailable("The watch on the KV bucket "+traffic.Bucket+" ended.", "It starts again by itself.", nil)
			case e == nil: // all that was there has been told
				c.forget(seen, told)
				first = false
				c.setTrouble(ctx, nil)
			default:
				seen[e.Key()] = true
				rev, ok := c.learn(ctx, e, !first)
				switch split := rev.Split.Name; {
				case !ok:
				case first:
					told[split] = remember(told[split], rev)
				default:
					c.mu.Lock()
					c.histories[split] = remember(c.histories[split], rev)
					c.mu.Unlock()
				}
			}
		case <-tick.C:
			_, now, err := c.born(ctx)
			switch {
			case err != nil:
				c.setTrouble(ctx, err) // the watch itself may well survive this
			case now.IsZero() || !now.Equal(created):
				return unavailable("The KV bucket "+traffic.Bucket+" was deleted or created anew.", "Applications keep their last good weights. Compare the splits with the journal before changing any.", nil)
			case !first:
				c.setTrouble(ctx, nil)
			}
		}
	}
}

// learn takes over what the KV tells of one split, and returns the revision if it
// is one. A document that is not valid changes nothing, as with every reader. One
// that is told as history is not news.
func (c *Control) learn(ctx context.Context, e jetstream.KeyValueEntry, news bool) (rev traffic.Revision, ok bool) {
	split := e.Key()[len(traffic.Key("")):]
	if e.Operation() != jetstream.KeyValuePut {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.splits[split].Token < e.Revision() {
			delete(c.splits, split)
			c.gone[split] = e.Revision()
		}
		return rev, false
	}
	rev, err := parse(split, e.Value())
	if err != nil {
		c.log.WarnContext(ctx, "a split document was refused", "key", e.Key(), "revision", e.Revision(), "err", err)
		return rev, false
	}
	rev.Token = e.Revision()
	if news {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.show(rev)
	}
	return rev, true
}

// show takes a revision into the picture unless the picture is newer. c.mu is held.
func (c *Control) show(rev traffic.Revision) {
	name := rev.Split.Name
	if rev.Token <= c.splits[name].Token || rev.Token <= c.gone[name] {
		return
	}
	c.splits[name] = rev
}

// remember adds a revision to a history, newest first. One that was written
// again, to fence off a lost write, stands once.
func remember(revs []traffic.Revision, rev traffic.Revision) []traffic.Revision {
	revs = slices.DeleteFunc(slices.Clone(revs), func(r traffic.Revision) bool { return r.Change == rev.Change })
	revs = slices.Insert(revs, 0, rev)
	return revs[:min(len(revs), history)]
}

// forget drops the splits that the bucket turned out not to have, and takes over
// the histories that it told: what was once in force is never shown as what is.
func (c *Control) forget(seen map[string]bool, told map[string][]traffic.Revision) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.histories = told
	for _, revs := range told {
		c.show(revs[0])
	}
	for name := range c.splits {
		if !seen[traffic.Key(name)] {
			delete(c.splits, name)
		}
	}
}

// History lists a split's revisions as far as the KV keeps them, newest first.
// It answers from what the watch has told: looking at a page asks NATS nothing.
func (c *Control) History(_ context.Context, name string) ([]traffic.Revision, error) {
	if !traffic.ValidName(name) {
		return nil, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("There is no split %q.", name), Hint: "Look at the list of splits."}
	}
	if c.js == nil {
		return nil, noConn()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	revs := c.histories[name]
	// What was just written is shown before the watch has told it.
	if now, ok := c.splits[name]; ok && (len(revs) == 0 || now.Token > revs[0].Token) {
		revs = remember(revs, now)
	}
	if len(revs) == 0 {
		return nil, &fleet.Error{Kind: fleet.NotFound, Msg: fmt.Sprintf("The KV has no history of split %q.", name), Hint: "Older revisions are in the journal."}
	}
	return slices.Clone(revs), nil
}

// past is what the KV still has of a split's life.
type past struct {
	revs    []traffic.Revision // newest first; one that was written again to fence off a lost write stands once
	last    uint64             // sequence of the newest message
	deletes []uint64           // sequences of delete markers
}

// wrote reports whether a change of base shows in the past.
func (p past) wrote(ch traffic.Change) bool {
	if !deletes(ch) {
		return slices.ContainsFunc(p.revs, func(r traffic.Revision) bool { return r.Change == ch.ID })
	}
	i := slices.IndexFunc(p.revs, func(r traffic.Revision) bool { return r.Number == ch.Base })
	return i >= 0 && slices.ContainsFunc(p.deletes, func(seq uint64) bool { return seq > p.revs[i].Token })
}

// past reads it by a consumer, which may lag behind the leader: whoever decides
// by it compares last with what the leader said.
func (c *Control) past(ctx context.Context, split string) (past, error) {
	kv, _, err := c.born(ctx)
	if err != nil || kv == nil {
		return past{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, c.readTimeout)
	defer cancel()
	entries, err := kv.History(ctx, traffic.Key(split))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return past{}, nil
	}
	if err != nil {
		return past{}, unreachable(fmt.Errorf("read history of split %s: %w", split, err))
	}
	var p past
	seen := map[string]bool{}
	for _, e := range slices.Backward(entries) {
		p.last = max(p.last, e.Revision())
		if e.Operation() != jetstream.KeyValuePut {
			p.deletes = append(p.deletes, e.Revision())
			continue
		}
		rev, err := parse(split, e.Value())
		if err != nil || seen[rev.Change] {
			continue
		}
		seen[rev.Change] = true
		rev.Token = e.Revision()
		p.revs = append(p.revs, rev)
	}
	return p, nil
}

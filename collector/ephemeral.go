package collector

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"ballast/fleet"
)

// namePattern replaces what a client library or a program generated in a
// consumer's name by a star: random tokens, UUIDs, long numbers. A name that
// somebody chose is returned as it is.
func namePattern(name string) string {
	var out strings.Builder
	changed := false
	for i := 0; i+uuidLen <= len(name); i++ {
		if isUUID(name[i : i+uuidLen]) {
			name = name[:i] + uuidMark + name[i+uuidLen:]
			changed = true
		}
	}
	for len(name) > 0 {
		i := strings.IndexAny(name, "-_:/@")
		token, sep := name, ""
		if i >= 0 {
			token, sep = name[:i], name[i:i+1]
			name = name[i+1:]
		} else {
			name = ""
		}
		switch {
		case token == uuidMark, isGenerated(token):
			token, changed = "*", true
		case changed && isNumber(token): // the serial number of an ordered consumer
			token = "*"
		}
		out.WriteString(token)
		out.WriteString(sep)
	}
	p := out.String()
	for strings.Contains(p, "*-*") || strings.Contains(p, "*_*") {
		p = strings.ReplaceAll(strings.ReplaceAll(p, "*-*", "*"), "*_*", "*")
	}
	return p
}

func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// isGenerated tells a random token from a word. Client libraries make 8 or 22
// of the letters and digits (a NUID or a hash of one); programs use process IDs
// and time stamps. Eight lower-case letters are a word more often than chance.
func isGenerated(s string) bool {
	if isNumber(s) {
		return len(s) >= 4
	}
	var lower, upper, turns, inside int
	last := byte(0)
	for i := range len(s) {
		kind := byte(0)
		switch c := s[i]; {
		case c >= 'a' && c <= 'z':
			lower++
			kind = 'a'
		case c >= 'A' && c <= 'Z':
			upper++
			kind = 'A'
		case c >= '0' && c <= '9':
			kind = '0'
		default:
			return false
		}
		if last != 0 && kind != last {
			turns++
			if last == '0' {
				inside++
			}
		}
		last = kind
	}
	switch {
	case len(s) >= 20:
		return turns >= 4
	case len(s) >= 8:
		// A CamelCase word turns too, but has no digits between its letters.
		return inside > 0 && turns >= 3 || turns >= 6 || len(s) == 8 && upper > 1 && lower > 1 && turns >= 4
	}
	return false
}

const (
	uuidLen  = 36
	uuidMark = "\x00" // stands for a UUID; no name holds it
)

func isUUID(s string) bool {
	for i := range len(s) {
		c := s[i]
		if i == 8 || i == 13 || i == 18 || i == 23 {
			if c != '-' {
				return false
			}
		} else if !strings.ContainsRune("0123456789abcdefABCDEF", rune(c)) {
			return false
		}
	}
	return true
}

// folds sums up consumers that come and go under generated names, so that they
// make neither endless rows nor endless series. Its state is owned by the rounds.
type folds struct {
	now   func() time.Time
	known map[fleet.ConsumerKey]*foldState
}

// foldState keeps a fold's counters from falling when consumers go: what they
// counted stays in the sum.
type foldState struct {
	first   time.Time // when the fold was seen first
	last    time.Time // when it had a member last
	gone    tally     // of members that are gone
	members map[fleet.ConsumerKey]member
	seen    uint64
	most    int            // at once
	row     fleet.Consumer // as it was with its last member
}

type member struct {
	tally
	created time.Time
}

type tally struct{ delivered, ackFloor uint64 }

const (
	foldTop = 5 // members of a fold that are kept in detail
	// maxKeptFolds bounds the folds that are kept; beyond, a stream has one for all.
	maxKeptFolds = 5000
	// foldKept is how long an empty fold is kept, so that its counters go on when
	// the next member comes.
	foldKept = 10 * time.Minute
	// foldShown is how long a row is shown without a member: with consumers that
	// live for a second there are looks between one and the next.
	foldShown = time.Minute
)

// isShortLived tells consumers that are folded: those that nobody named, and
// those that are named by a generator and removed when they are not used.
func isShortLived(c *fleet.Consumer) bool {
	if c.Durable && c.Inactive == 0 {
		return false
	}
	return patternOf(c) != c.Consumer
}

// patternOf is namePattern, and knows that the server makes up 8 letters and
// digits for a consumer without a name. One that may be removed is not worth the
// doubt whether somebody chose them.
func patternOf(c *fleet.Consumer) string {
	if !c.Durable && isServerMade(c.Consumer) {
		return "*"
	}
	return namePattern(c.Consumer)
}

// isServerMade takes 8 letters and digits for a server's choice unless they are
// a word, perhaps with a number.
func isServerMade(name string) bool {
	if len(name) != 8 {
		return false
	}
	word := strings.TrimRight(name, "0123456789")
	for i := range len(word) {
		if c := word[i] | 0x20; (c < 'a' || c > 'z') && (word[i] < '0' || word[i] > '9') {
			return false
		}
	}
	if word == "" {
		return true
	}
	rest := word[1:]
	isWord := !strings.ContainsAny(word, "0123456789") && (rest == strings.ToLower(rest) || word == strings.ToUpper(word))
	return !isWord
}

// foldKeyOf names the row that a consumer is summed in. No consumer can have
// such a name: stars and spaces are not allowed in them.
func foldKeyOf(c *fleet.Consumer) (k fleet.ConsumerKey, pattern, filter string) {
	pattern, filter = patternOf(c), strings.Join(c.FilterSubjects, " ")
	k = c.ConsumerKey
	k.Consumer = pattern
	if filter != "" {
		k.Consumer += " (" + clipped(filter, 200) + ")"
	}
	return k, pattern, filter
}

// unnamedKey names the row for consumers without a name and with this one's
// filter.
func unnamedKey(c *fleet.Consumer) fleet.ConsumerKey {
	unnamed := *c
	unnamed.Consumer, unnamed.Durable = "00000000", false
	k, _, _ := foldKeyOf(&unnamed)
	return k
}

// manySeen is how many consumers without a name must have come to a row for one
// that has a word of 8 letters for its name to be taken for another of them: by
// chance 1 of 250 names that a server or a client library makes up looks like
// one, and churn would make a row of each.
const manySeen = 100

// amongMany reports whether a consumer that could have been given its name by
// somebody came among so many that were not that it hardly was.
func (f *folds) amongMany(c *fleet.Consumer) bool {
	if c.Durable || len(c.Consumer) != 8 || strings.Trim(c.Consumer, alphanumeric) != "" {
		return false
	}
	if c.AckPolicy != "" {
		s := f.known[unnamedKey(c)]
		return s != nil && s.seen >= manySeen
	}
	// Its filter was not read yet: any will do until it is.
	for k, s := range f.known {
		if k.Account == c.Account && k.Stream == c.Stream && strings.HasPrefix(k.Consumer, "*") && s.seen >= manySeen {
			return true
		}
	}
	return false
}

const alphanumeric = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"

func newFolds(now func() time.Time) *folds {
	return &folds{now: now, known: map[fleet.ConsumerKey]*foldState{}}
}

// fold replaces short-lived consumers in rows by their sums. of tells for each
// of them which row it is in.
func (f *folds) fold(rows []fleet.Consumer) (out []fleet.Consumer, of map[fleet.ConsumerKey]string) {
	out = make([]fleet.Consumer, 0, len(rows))
	sums := map[fleet.ConsumerKey]*fleet.Consumer{}
	members := map[fleet.ConsumerKey]map[fleet.ConsumerKey]member{}
	of = map[fleet.ConsumerKey]string{}
	var unread []*fleet.Consumer // which belong to the row of their filter; it is read with the next configurations
	now := f.now()
	for i := range rows {
		c := &rows[i]
		if !isShortLived(c) && !f.amongMany(c) {
			out = append(out, *c)
			continue
		}
		if c.AckPolicy == "" {
			unread = append(unread, c)
			continue
		}
		k, pattern, filter := foldKeyOf(c)
		if pattern == c.Consumer {
			k, pattern = unnamedKey(c), "*"
		}
		if f.known[k] == nil && len(f.known)+len(sums) >= maxKeptFolds {
			k.Consumer, pattern, filter = "*", "*", ""
		}
		of[c.ConsumerKey] = k.Consumer
		sum := sums[k]
		if sum == nil {
			sum = &fleet.Consumer{
				ConsumerKey: k, FilterSubjects: c.FilterSubjects, AckPolicy: c.AckPolicy, AckWait: c.AckWait,
				MaxDeliver: c.MaxDeliver, MaxAckPending: c.MaxAckPending, Inactive: c.Inactive, Push: c.Push,
				SampleFreq: c.SampleFreq, Source: c.Source, Fold: &fleet.Fold{Pattern: pattern, Filter: filter},
			}
			sums[k], members[k] = sum, map[fleet.ConsumerKey]member{}
		}
		addTo(sum, c)
		members[k][c.ConsumerKey] = member{tally{c.Delivered, c.AckFloor}, c.Created}
	}
	f.addUnread(unread, sums, members)
	for k, sum := range sums {
		s := f.known[k]
		if s == nil {
			s = &foldState{first: now}
			f.known[k] = s
		}
		s.update(members[k], now)
		for _, m := range s.members {
			sum.Delivered += m.delivered
			sum.AckFloor += m.ackFloor
		}
		sum.Delivered += s.gone.delivered
		sum.AckFloor += s.gone.ackFloor
		s.most = max(s.most, sum.Fold.Count)
		sum.Created, sum.Fold.Seen, sum.Fold.Most = s.first, s.seen, s.most
		slices.SortFunc(sum.Fold.Top, func(a, b fleet.Consumer) int {
			return cmp.Or(cmp.Compare(b.Pending+uint64(b.AckPending), a.Pending+uint64(a.AckPending)), cmp.Compare(a.Consumer, b.Consumer))
		})
		sum.Fold.Top = slices.Clone(sum.Fold.Top[:min(len(sum.Fold.Top), foldTop)])
		s.row = *sum
		out = append(out, *sum)
	}
	for k, s := range f.known {
		if sums[k] != nil {
			continue
		}
		s.update(nil, now)
		switch age := now.Sub(s.last); {
		case age > foldKept:
			delete(f.known, k)
		case age <= foldShown:
			out = append(out, s.empty())
		}
	}
	slices.SortFunc(out, func(a, b fleet.Consumer) int {
		return cmp.Or(cmp.Compare(a.Account, b.Account), cmp.Compare(a.Stream, b.Stream), cmp.Compare(a.Consumer, b.Consumer))
	})
	return out, of
}

// addTo adds what a member shows now to its row. What it counted is added with
// all the others.
func addTo(sum, c *fleet.Consumer) {
	sum.Fold.Count++
	sum.Misfit = cmp.Or(sum.Misfit, c.Misfit)
	sum.AckPending += c.AckPending
	sum.Redelivered += c.Redelivered
	sum.Pending += c.Pending
	sum.Waiting += c.Waiting
	sum.DeliveredSeq = max(sum.DeliveredSeq, c.DeliveredSeq)
	sum.AckFloorSeq = max(sum.AckFloorSeq, c.AckFloorSeq)
	sum.LastDelivery = later(sum.LastDelivery, c.LastDelivery)
	sum.LastAck = later(sum.LastAck, c.LastAck)
	sum.At = later(sum.At, c.At)
	sum.Fold.Top = append(sum.Fold.Top, *c)
}

// addUnread adds consumers whose configuration is not read yet, if there is one
// row only for names like theirs in their stream: many live for less time than
// lies between two readings. What they counted is left out until their row is
// certain, for a sum that was wrong once would stay wrong.
func (f *folds) addUnread(unread []*fleet.Consumer, sums map[fleet.ConsumerKey]*fleet.Consumer, members map[fleet.ConsumerKey]map[fleet.ConsumerKey]member) {
	if len(unread) == 0 {
		return
	}
	type names struct{ account, stream, pattern string }
	rows := map[names][]fleet.ConsumerKey{}
	for k, s := range f.known {
		n := names{k.Account, k.Stream, s.row.Fold.Pattern}
		rows[n] = append(rows[n], k)
	}
	for k, sum := range sums {
		if f.known[k] == nil {
			n := names{k.Account, k.Stream, sum.Fold.Pattern}
			rows[n] = append(rows[n], k)
		}
	}
	for _, c := range unread {
		of := rows[names{c.Account, c.Stream, patternOf(c)}]
		if len(of) != 1 {
			continue
		}
		k := of[0]
		if sums[k] == nil {
			row := f.known[k].empty()
			row.Delivered, row.AckFloor = 0, 0
			sums[k], members[k] = &row, map[fleet.ConsumerKey]member{}
		}
		addTo(sums[k], c)
	}
}

// empty is the row without any member. It was measured when the last one was.
func (s *foldState) empty() fleet.Consumer {
	c, f := s.row, *s.row.Fold
	f.Count, f.Top = 0, nil
	c.Fold, c.Pending, c.AckPending, c.Redelivered, c.Waiting = &f, 0, 0, 0, 0
	return c
}

func (s *foldState) update(now map[fleet.ConsumerKey]member, at time.Time) {
	for k, old := range s.members {
		m, ok := now[k]
		// One that was made anew under its name counts anew.
		if !ok || !m.created.Equal(old.created) {
			s.gone.delivered += old.delivered
			s.gone.ackFloor += old.ackFloor
		}
	}
	for k, m := range now {
		if old, ok := s.members[k]; !ok || !m.created.Equal(old.created) {
			s.seen++
		}
	}
	s.members = now
	if len(now) > 0 {
		s.last = at
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// foldWindows puts the measured latencies of folded consumers into their rows.
// One that is gone since the last look is put where its kind is.
func foldWindows(windows []fleet.AckWindow, of map[fleet.ConsumerKey]string) []fleet.AckWindow {
	if len(of) == 0 {
		return windows
	}
	type family struct{ stream, pattern string }
	pattern := func(k fleet.ConsumerKey) string { return patternOf(&fleet.Consumer{ConsumerKey: k}) }
	families := map[family]string{}
	for k, row := range of {
		f := family{k.Stream, pattern(k)}
		if old, ok := families[f]; !ok || row < old {
			families[f] = row
		}
	}
	out := windows[:0]
	sums := map[fleet.ConsumerKey]int{}
	for _, w := range windows {
		row, ok := of[w.ConsumerKey]
		if !ok {
			row, ok = families[family{w.Stream, pattern(w.ConsumerKey)}]
			ok = ok && pattern(w.ConsumerKey) != w.Consumer
		}
		if !ok {
			out = append(out, w)
			continue
		}
		w.Consumer = row
		if i, again := sums[w.ConsumerKey]; again {
			out[i].Latency.Merge(w.Latency)
			out[i].Redelivered += w.Redelivered
			out[i].Passed += w.Passed
			continue
		}
		sums[w.ConsumerKey] = len(out)
		out = append(out, w)
	}
	return out
}

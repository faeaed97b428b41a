package main

import (
	"fmt"
	"io"
	"time"
)

// judge says of each target what was measured and whether it is met. What is
// measured, where the words leave a choice:
//
//   - The reference load is the 50,000 series; latencies come on top and are in
//     the second column of the table above. "All levels" are the looks, the three
//     roll-ups, the rankings and the attributes of the series, in pages of the
//     file: more than the looks and roll-ups that the target was set by.
//   - A look's time is that of the call, from its begin to the end of its
//     synchronous commit, under looks that follow each other without a pause. The
//     first look, which adds all entities, is shown by itself.
//   - Ratios are to the TSDB with all samples of a look at one time, its best
//     case; ours are recorded with their jitter. It keeps no roll-ups: the ratio
//     of the looks alone compares the same contents.
//   - Reads are of the store with latencies, by one caller; "at once" has 12.
func judge(w io.Writer, c config, own int64, all []result) {
	fmt.Fprintf(w, "%-52s %12s %12s\n", "target", "measured", "verdict")
	say := func(what string, v, limit float64, atLeast bool) {
		verdict := "met"
		if atLeast && v < limit || !atLeast && v > limit {
			verdict = "MISSED"
		}
		bound := "<="
		if atLeast {
			bound = ">="
		}
		fmt.Fprintf(w, "%-52s %12.3f %12s\n", fmt.Sprintf("%s %s %g", what, bound, limit), v, verdict)
	}
	store := all[0]
	per := func(n int64, r result) float64 { return float64(n) / float64(r.Samples) }
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	say("write path, M samples/s", float64(store.Samples)/store.Put.Seconds()/1e6, 10, true)
	say("CPU, ns a sample", per(int64(store.CPU), store), 90, false)
	say("raw, B a sample", per(store.Raw, store), 0.60, false)
	say("all levels, B a sample", per(store.All, store), 0.80, false)
	say("written, B a sample", per(store.Written, store), 5, false)
	say("RSS, MB, with both head buffers", float64(store.RSS)/1e6, 200, false)
	say("the same less what the load takes alone", float64(store.RSS-own)/1e6, 200, false)
	say("look p99, ms", ms(store.P99), 25, false)
	say("look max while slots are sealed, ms", ms(store.Max), 100, false)
	if c.tsdbHours > 0 {
		tsdb := all[len(all)-2]
		say("CPU of the TSDB's", per(int64(store.CPU), store)/per(int64(tsdb.CPU), tsdb), 0.55, false)
		say("raw of the TSDB's bytes", per(store.Raw, store)/per(tsdb.All, tsdb), 0.55, false)
		say("all levels of the TSDB's bytes", per(store.All, store)/per(tsdb.All, tsdb), 0.55, false)
		say("written of the TSDB's", per(store.Written, store)/per(tsdb.Written, tsdb), 0.4, false)
		say("RSS of the TSDB's", float64(store.RSS)/float64(tsdb.RSS), 0.4, false)
	}
	reads := store
	if c.acks {
		reads = all[1]
	}
	for _, x := range []struct {
		name     string
		p50, p99 float64
	}{
		{"24 h of one series", 0.3, 3},
		{"12 charts x 4, 24 h", 6, 25},
		{"12 charts x 4 at once, 24 h", 6, 25},
		{"top 10 by p99, 2 h", 2, 0},
		{"top 10 by p99, 24 h", 50, 0},
		{"top 10 by column, 24 h", 20, 0},
	} {
		r := reads.Reads[x.name]
		say(x.name+", p50 ms", ms(r[0]), x.p50, false)
		if x.p99 > 0 {
			say(x.name+", p99 ms", ms(r[1]), x.p99, false)
		}
	}
	if c.hours < 24 {
		fmt.Fprintf(w, "Only %g h were recorded: reads of 24 h have less to read, and roll-ups have less to share.\n", c.hours)
	}
}

// Command bench puts the reference load, 50,000 series of a NATS system every
// 5 s, through Ballast's store and through Prometheus' TSDB, one after the other
// in processes of their own, and says what each took. It is a module of its own:
// the TSDB is no dependency of Ballast.
//
//	go run . -hours 24 -tsdb-hours 6
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// result of one child.
type result struct {
	Samples       int64
	CPU, Wall     time.Duration               // of all, the making of the load included
	Put           time.Duration               // wall time in the calls that record
	P50, P99, Max time.Duration               // of one look's call, but for the first
	First         time.Duration               // of the first look, which adds all entities
	Raw, All      int64                       // B on disk
	Written       int64                       // B that the kernel was given to write
	RSS           int64                       // B, at most
	Reads         map[string][2]time.Duration // p50 and p99
	Notes         []string
}

type config struct {
	hours, tsdbHours float64
	seed             uint64
	dir              string
	acks             bool
	cpuprofile       string
	only             string
}

func main() {
	var c config
	flag.Float64Var(&c.hours, "hours", 6, "hours of load for the store; reads of 24 h need 24")
	flag.Float64Var(&c.tsdbHours, "tsdb-hours", 3, "hours of load for the TSDB; 0 leaves it out")
	flag.Uint64Var(&c.seed, "seed", 1, "of the load")
	flag.StringVar(&c.dir, "dir", "", "where to put the data; a temporary directory if empty")
	flag.BoolVar(&c.acks, "acks", true, "record ACK latencies of 70 % of the consumers as well")
	flag.StringVar(&c.cpuprofile, "cpuprofile", "", "write the store's CPU profile here")
	flag.StringVar(&c.only, "only", "", "measure only reads whose name has this in it")
	child := flag.String("child", "", "what to measure in this process (used by the program itself): \"reads\" measures what an earlier run left in -dir")
	flag.Parse()
	if err := run(c, *child); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(c config, child string) error {
	if child != "" {
		f := map[string]func(config) (result, error){
			"store": runStore, "store-only": func(c config) (result, error) { c.acks = false; return runStore(c) }, "reads": runReads,
			"load-only": func(c config) (result, error) { c.acks = false; return runLoad(c) }, "load": runLoad, "columns": runColumns,
			"tsdb":        func(c config) (result, error) { return runTSDB(c, false) },
			"tsdb-jitter": func(c config) (result, error) { return runTSDB(c, true) },
		}[child]
		if f == nil {
			return fmt.Errorf("there is no child %q", child)
		}
		r, err := f(c)
		if err != nil {
			return fmt.Errorf("%s: %w", child, err)
		}
		return json.NewEncoder(os.Stdout).Encode(r)
	}
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "ballast-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.dir = dir
	}
	measure := func(name string) (result, error) {
		cmd := exec.Command(os.Args[0], append(os.Args[1:], "-child", name, "-dir", filepath.Join(c.dir, name))...)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		var r result
		if err != nil {
			return r, fmt.Errorf("measure %s: %w", name, err)
		}
		return r, json.Unmarshal(out, &r)
	}
	var all []result
	var own int64 // what the load takes in memory
	for _, x := range [][2]string{{"load-only", "store-only"}, {"load", "store"}} {
		if !c.acks && x[0] == "load" {
			break
		}
		load, err := measure(x[0])
		if err != nil {
			return err
		}
		r, err := measure(x[1])
		if err != nil {
			return err
		}
		r.CPU -= load.CPU
		own = max(own, load.RSS)
		all = append(all, r)
	}
	ours := all[len(all)-1]
	fmt.Printf("%-28s", "")
	for i, name := range []string{"store", "with latency", "tsdb aligned", "tsdb jitter"} {
		if c.acks || i != 1 {
			fmt.Printf(" %12s", name)
		}
	}
	fmt.Println()
	if c.tsdbHours > 0 {
		columns, err := measure("columns")
		if err != nil {
			return err
		}
		for _, name := range []string{"tsdb", "tsdb-jitter"} {
			r, err := measure(name)
			if err != nil {
				return err
			}
			r.CPU -= columns.CPU
			all = append(all, r)
		}
	}
	line := func(what string, f func(r result) string) {
		fmt.Printf("%-28s", what)
		for _, r := range all {
			fmt.Printf(" %12s", f(r))
		}
		fmt.Println()
	}
	per := func(n int64, r result) string { return fmt.Sprintf("%.3f", float64(n)/float64(r.Samples)) }
	line("samples, M", func(r result) string { return fmt.Sprintf("%.1f", float64(r.Samples)/1e6) })
	line("write path, M samples/s", func(r result) string { return fmt.Sprintf("%.1f", float64(r.Samples)/r.Put.Seconds()/1e6) })
	line("CPU, ns/sample", func(r result) string { return fmt.Sprintf("%.1f", float64(r.CPU)/float64(r.Samples)) })
	line("raw, B/sample", func(r result) string { return per(r.Raw, r) })
	line("all on disk, B/sample", func(r result) string { return per(r.All, r) })
	line("written, B/sample", func(r result) string { return per(r.Written, r) })
	line("RSS at most, MB", func(r result) string { return fmt.Sprintf("%.0f", float64(r.RSS)/1e6) })
	line("look p50, ms", func(r result) string { return millis(r.P50) })
	line("look p99, ms", func(r result) string { return millis(r.P99) })
	line("look max, ms", func(r result) string { return millis(r.Max) })
	line("first look, ms", func(r result) string { return millis(r.First) })
	for _, name := range slices.Sorted(keys(ours.Reads)) {
		line(name+", ms", func(r result) string {
			v, ok := r.Reads[name]
			if !ok {
				return "-"
			}
			return millis(v[0]) + "/" + millis(v[1])
		})
	}
	for _, r := range all {
		for _, n := range r.Notes {
			fmt.Println(n)
		}
	}
	fmt.Printf("\nThe making of the load is not in the CPU time; it is in RSS, with %.0f MB when it runs alone.\n\n", float64(own)/1e6)
	judge(os.Stdout, c, own, all)
	return nil
}

func keys[V any](m map[string]V) func(func(string) bool) {
	return func(yield func(string) bool) {
		for k := range m {
			if !yield(k) {
				return
			}
		}
	}
}

func millis(d time.Duration) string { return fmt.Sprintf("%.2f", float64(d)/1e6) }

func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	slices.SortFunc(d, cmp.Compare[time.Duration])
	return d[min(int(q*float64(len(d))), len(d)-1)]
}

// took is the CPU time of this process so far.
func took() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// field reads a number from a file of /proc/self.
func field(file, name string) int64 {
	f, err := os.Open("/proc/self/" + file)
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), name+":"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n
		}
	}
	return 0
}

func sizeOf(dir string) int64 {
	var n int64
	filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			if info, err := d.Info(); err == nil {
				n += info.Size()
			}
		}
		return nil
	})
	return n
}

package store

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"ballast/fleet"
)

// notKept are the fields that the past does not have, each with its reason. A
// new field of a snapshot is kept, or stands here.
var notKept = map[string]string{
	"Streams.LastTime":                      "moves with every message; the series of last_seq shows when there were some",
	"Consumers.LastDelivery":                "moves with every message; the series of delivered shows when there were some",
	"Consumers.LastAck":                     "moves with every message; the series of acked shows when there were some",
	"Consumers.DeliveredSeq":                "the same in the stream's counting, which differs with its filter",
	"Consumers.AckFloorSeq":                 "the same in the stream's counting, which differs with its filter",
	"Streams.Peers.Active":                  "is how long ago something was when it was read, and moves with every look",
	"Streams.Peers.Lag":                     "moves with every look; whether a replica is current is kept",
	"Consumers.Peers.Active":                "is how long ago something was when it was read, and moves with every look",
	"Consumers.Peers.Lag":                   "moves with every look; whether a replica is current is kept",
	"Servers.JetStream.MetaReplicas.Active": "is how long ago something was when it was read, and moves with every look",
	"Servers.JetStream.MetaReplicas.Lag":    "moves with every look; whether a replica is current is kept",
	"Accounts.Settings.At":                  "is when the settings were read, which are noted when they change",
	"Intake.At":                             "is some ms before the end of the round, which stands for it",
}

// filler sets every field of a value to one of its own.
type filler struct {
	n  int
	at time.Time
}

func (f *filler) fill(t *testing.T, path string, v reflect.Value) {
	t.Helper()
	f.n++
	switch x := v.Addr().Interface().(type) {
	case *time.Time:
		*x = f.at.Add(-time.Duration(f.n%1000) * time.Millisecond)
		return
	case *time.Duration:
		*x = time.Duration(f.n) * time.Second
		return
	case *fleet.State:
		*x = fleet.LameDuck
		return
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			f.fill(t, path+"."+v.Type().Field(i).Name, v.Field(i))
		}
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		f.fill(t, path, v.Elem())
	case reflect.Slice:
		n := 2
		if v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(fmt.Appendf(nil, `{"cpu":%d}`, f.n))
			return
		}
		if strings.HasSuffix(path, "Fold.Top") && strings.Count(path, "Top") > 1 {
			return // a fold has no folds
		}
		v.Set(reflect.MakeSlice(v.Type(), n, n))
		for i := range n {
			f.fill(t, path, v.Index(i))
		}
	case reflect.Map:
		v.Set(reflect.MakeMap(v.Type()))
		for range 2 {
			key, value := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			f.fill(t, path, key)
			f.fill(t, path, value)
			v.SetMapIndex(key, value)
		}
	case reflect.Array:
		for i := range v.Len() {
			f.fill(t, path, v.Index(i))
		}
	case reflect.String:
		v.SetString(fmt.Sprintf("%s %06d", path[strings.LastIndexByte(path, '.')+1:], f.n))
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(f.n))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(uint64(f.n))
	case reflect.Float32, reflect.Float64:
		v.SetFloat(float64(f.n) / 2)
	default:
		t.Fatalf("%s is a %s: this test does not know what to put there", path, v.Kind())
	}
}

// fieldDifferences names the fields in which two values differ; those that are
// not kept must not be there.
func fieldDifferences(path string, was, is reflect.Value) (out []string) {
	differs := func() []string { return []string{fmt.Sprintf("%s was %v, is %v", path, was, is)} }
	if at, ok := was.Interface().(time.Time); ok {
		if !at.Truncate(time.Millisecond).Equal(is.Interface().(time.Time).Truncate(time.Millisecond)) {
			return differs()
		}
		return nil
	}
	switch was.Kind() {
	case reflect.Struct:
		for i := range was.NumField() {
			name := strings.TrimPrefix(path+"."+was.Type().Field(i).Name, ".")
			if was.Type().Field(i).Anonymous {
				name = path
			}
			if notKept[name] != "" {
				continue
			}
			out = append(out, fieldDifferences(name, was.Field(i), is.Field(i))...)
		}
		return out
	case reflect.Pointer:
		if was.IsNil() != is.IsNil() {
			return differs()
		}
		if was.IsNil() {
			return nil
		}
		return fieldDifferences(path, was.Elem(), is.Elem())
	case reflect.Slice, reflect.Array:
		if was.Len() != is.Len() {
			return []string{fmt.Sprintf("%s had %d elements, has %d", path, was.Len(), is.Len())}
		}
		for i := range was.Len() {
			out = append(out, fieldDifferences(path, was.Index(i), is.Index(i))...)
		}
		return out
	case reflect.Map:
		if was.Len() != is.Len() {
			return []string{fmt.Sprintf("%s had %d elements, has %d", path, was.Len(), is.Len())}
		}
		for _, k := range was.MapKeys() {
			if other := is.MapIndex(k); !other.IsValid() {
				out = append(out, fmt.Sprintf("%s has no %v", path, k))
			} else {
				out = append(out, fieldDifferences(path, was.MapIndex(k), other)...)
			}
		}
		return out
	}
	if !was.Equal(is) {
		return differs()
	}
	return nil
}

// everyField is a snapshot in which every field has a value of its own, as far as
// its meaning lets it.
func everyField(t *testing.T, at time.Time) fleet.Snapshot {
	var s fleet.Snapshot
	(&filler{at: at}).fill(t, "Snapshot", reflect.ValueOf(&s).Elem())
	s.TakenAt = at
	for i := range s.Streams {
		s.Streams[i].Limits = fleet.ThresholdsOf(s.Streams[i].Metadata) // they are read from it
	}
	for i := range s.Consumers {
		s.Consumers[i].Limits = fleet.ThresholdsOf(s.Consumers[i].Metadata)
	}
	s.Servers = append(s.Servers, fleet.Server{})
	(&filler{n: 40_000, at: at.Add(-10 * time.Minute)}).fill(t, "Silent", reflect.ValueOf(&s.Servers[2]).Elem())
	s.Servers[2].State = fleet.Unreachable
	s.Servers = append(s.Servers, fleet.Server{ID: "X", Name: "z", Cluster: "z", State: fleet.Unread, Error: "It is known from its neighbours only."})
	return s
}

// Every field of a snapshot is known of a past moment, but for those that stand
// in notKept with the reason: from memory, from disk and after a restart.
func TestEveryFieldIsKept(t *testing.T) {
	t.Parallel()
	c := newClock()
	dir := t.TempDir()
	db := openTest(t, dir, c, Options{Interval: 5 * time.Second})
	was := everyField(t, c.add(time.Minute))
	put(t, db, was)
	if err := db.maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	check := func(what string, db *DB) {
		t.Helper()
		is, _, err := db.SnapshotAt(t.Context(), was.TakenAt)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		for _, d := range fieldDifferences("", reflect.ValueOf(was), reflect.ValueOf(*is)) {
			t.Errorf("%s: %.200s", what, d)
		}
	}
	check("in memory", db)
	// What comes later changes nothing of it.
	for range 200 {
		put(t, db, look(c.add(5*time.Second), 1))
	}
	if err := db.sealAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := db.maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	check("sealed", db)
	check("after a kill", openTest(t, copyDir(t, dir), c, Options{Interval: 5 * time.Second}))
}

// The test above notices what is not kept: a field that is missing in what is
// read back is a difference, and the list of exceptions names fields that are there.
func TestAForgottenFieldIsNoticed(t *testing.T) {
	t.Parallel()
	was := everyField(t, newClock().now())
	for _, forget := range []func(*fleet.Snapshot){
		func(s *fleet.Snapshot) { s.Conns = nil },
		func(s *fleet.Snapshot) { s.Services = []fleet.Service{s.Services[0], {}} },
		func(s *fleet.Snapshot) { s.Intake.Counted = 0 },
	} {
		is := was
		forget(&is)
		if len(fieldDifferences("", reflect.ValueOf(was), reflect.ValueOf(is))) == 0 {
			t.Error("a field that was forgotten is no difference")
		}
	}
	for path := range notKept {
		at := reflect.TypeFor[fleet.Snapshot]()
		for _, name := range strings.Split(path, ".") {
			for at.Kind() == reflect.Slice || at.Kind() == reflect.Pointer {
				at = at.Elem()
			}
			f, ok := at.FieldByName(name)
			if !ok {
				t.Fatalf("there is no field %s", path)
			}
			at = f.Type
		}
	}
}

package wait

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestForPollsUntilTheConditionHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		For(t, time.Minute, "a second to pass", func() bool { return time.Since(start) >= time.Second })
		if took := time.Since(start); took > 1010*time.Millisecond {
			t.Errorf("For returned after %v, want about 1s", took)
		}
	})
}

func TestForGivesUpAtTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if until(time.Second, func() bool { return false }) {
			t.Error("until = true for a condition that never holds")
		}
		if took := time.Since(start); took != time.Second {
			t.Errorf("until returned after %v, want 1s", took)
		}
	})
}

package bed

import (
	"context"
	"fmt"
	"time"

	ps "github.com/shirou/gopsutil/v4/process"
)

// Usage is what a process has used.
type Usage struct {
	CPU time.Duration // user and system since it started; Linux counts in 10 ms
	RSS uint64        // bytes in memory now
}

// UsageOf reads what a process has used, a server's or any other's.
func UsageOf(ctx context.Context, pid int) (Usage, error) {
	p, err := ps.NewProcessWithContext(ctx, int32(pid))
	if err != nil {
		return Usage{}, fmt.Errorf("find process %d: %w", pid, err)
	}
	t, err := p.TimesWithContext(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	m, err := p.MemoryInfoWithContext(ctx)
	if err != nil {
		return Usage{}, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return Usage{
		CPU: time.Duration((t.User + t.System) * float64(time.Second)),
		RSS: m.RSS,
	}, nil
}

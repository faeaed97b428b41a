package tuner

import (
	"math"
	"time"
)

// pool is a target as the queueing model sees it: c messages at a time, k
// messages a second. Its utilization at x msg/s is x/k, its mean processing
// time c/k, and by Sakasegawa's approximation with service times as variable
// as their mean (coefficient of variation 1), ρ^(a+1)/(1-ρ) messages wait on
// average, a = √(2(c+1)) - 1.
type pool struct{ k, c float64 }

func (p pool) exponent() float64 { return math.Sqrt(2*(p.c+1)) - 1 }

// service is the mean processing time in seconds.
func (p pool) service() float64 { return p.c / p.k }

// wait is the mean time in the queue, in seconds, at x msg/s.
func (p pool) wait(x float64) float64 {
	rho := min(x/p.k, fullest)
	return math.Pow(rho, p.exponent()) / (p.k * (1 - rho))
}

// marginal is the time that one more message a second adds for all, at
// utilization rho.
func (p pool) marginal(rho float64) float64 {
	a := p.exponent()
	idle := 1 - rho
	return p.service() + math.Pow(rho, a)*((a+1)/idle+rho/(idle*idle))/p.k
}

// fullest is the utilization at which the model stops: beyond it a queue has no
// steady state to predict.
const fullest = 0.995

// spread divides load msg/s over the pools so that the mean time of a message
// is least: one more message costs the same everywhere. Near the total capacity
// it divides in proportion to capacity, since there is nothing left to choose.
func spread(pools []pool, load float64) []float64 {
	out := make([]float64, len(pools))
	total := 0.0
	for _, p := range pools {
		total += p.k
	}
	if total <= 0 {
		return out
	}
	if load >= 0.97*total {
		for i, p := range pools {
			out[i] = load * p.k / total
		}
		return out
	}
	// Two nested bisections: the price of a message outside, the utilization of
	// each pool at that price inside. What the outer one rules out narrows the
	// inner ones too.
	low, high := make([]float64, len(pools)), make([]float64, len(pools))
	mid := make([]float64, len(pools))
	bottom, top := math.Inf(1), 0.0
	for i, p := range pools {
		high[i] = fullest
		bottom = min(bottom, p.marginal(0))
		top = max(top, p.marginal(fullest))
	}
	for range 60 {
		price := math.Sqrt(bottom * top)
		sum := 0.0
		for i, p := range pools {
			mid[i] = utilizationAt(p, price, low[i], high[i])
			sum += mid[i] * p.k
		}
		if math.Abs(sum-load) < 1e-4*load {
			break
		}
		if sum < load {
			bottom = price
			copy(low, mid)
		} else {
			top = price
			copy(high, mid)
		}
	}
	sum := 0.0
	for i, p := range pools {
		out[i] = mid[i] * p.k
		sum += out[i]
	}
	for i := range out {
		if sum > 0 {
			out[i] *= load / sum
		}
	}
	return out
}

// utilizationAt finds the utilization between low and high at which the pool's
// marginal time is the price.
func utilizationAt(p pool, price, low, high float64) float64 {
	if p.marginal(low) >= price {
		return low
	}
	for high-low > 1e-5 {
		mid := (low + high) / 2
		if p.marginal(mid) < price {
			low = mid
		} else {
			high = mid
		}
	}
	return (low + high) / 2
}

// flow is one target's part in a prediction.
type flow struct {
	pool
	x     float64 // msg/s
	empty float64 // seconds that a message takes when nothing queues
	sigma float64 // of the logarithm of its latency
}

// sigma of a log-normal time whose coefficient of variation is 1: √ln 2.
const sigma = 0.8326

// predict gives the mean and 99th percentile of the latency over all flows in
// the steady state, each log-normal around its mean.
func predict(flows []flow) (mean, p99 time.Duration) {
	total, sum := 0.0, 0.0
	means := make([]float64, len(flows))
	for i, f := range flows {
		if f.k <= 0 || f.x <= 0 {
			continue
		}
		means[i] = f.empty + f.wait(f.x)
		total += f.x
		sum += f.x * means[i]
	}
	if total == 0 {
		return 0, 0
	}
	low, high := math.Log(1e-6), math.Log(1e5)
	for range 50 {
		at := (low + high) / 2
		later := 0.0
		for i, f := range flows {
			if means[i] == 0 {
				continue
			}
			mu := math.Log(means[i]) - f.sigma*f.sigma/2
			later += f.x * 0.5 * math.Erfc((at-mu)/(f.sigma*math.Sqrt2))
		}
		if later > 0.01*total {
			low = at
		} else {
			high = at
		}
	}
	return seconds(sum / total), seconds(math.Exp(high))
}

func seconds(s float64) time.Duration {
	return time.Duration(min(s, 1e6) * float64(time.Second)).Round(time.Microsecond)
}

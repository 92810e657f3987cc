package bench

import (
	"fmt"
	"strings"
)

// Result is what is known of a case after its runs. Seconds, Bytes, Ops, Rate and the CPU time are those of the median
// run; latencies and errors are those of all runs together. Its JSON names are fixed: scripts rely on them.
type Result struct {
	Name    string  `json:"name"`
	Bytes   int64   `json:"bytes,omitempty"` // moved in the median run; none in cases about metadata
	Ops     int64   `json:"ops,omitempty"`   // done in the median run; none in cases about a stream of bytes
	Seconds float64 `json:"seconds"`
	Rate    float64 `json:"rate"`        // Ops per second where there are Ops, else Bytes per second
	Unit    string  `json:"unit"`        // of the rates: ops/s or bytes/s
	Slowest float64 `json:"rate_lowest"` // the slowest run's rate
	Fastest float64 `json:"rate_best"`   // the fastest run's
	Runs    int     `json:"runs"`
	P50     float64 `json:"p50_ms"`
	P99     float64 `json:"p99_ms"`
	Max     float64 `json:"max_ms"`
	Errors  int64   `json:"errors"`
	Lost    int64   `json:"lost"` // acknowledged records that were not found, over all runs; the goal is none
	Torn    int64   `json:"torn"` // acknowledged records that were found damaged, over all runs; the goal is none
	// Sync is what an acknowledgement means.
	Sync Durability `json:"sync"`
	// CPUSeconds is the CPU time of the client process, or of every process of a raw limit.
	CPUSeconds float64 `json:"cpu_seconds"`
	CPUPerGiB  float64 `json:"cpu_seconds_per_gib,omitempty"`
	// ServerCPUSeconds is that of the cluster's processes, as far as they were named.
	ServerCPUSeconds float64 `json:"server_cpu_seconds,omitempty"`
	ServerCPUPerGiB  float64 `json:"server_cpu_seconds_per_gib,omitempty"`
	// Limit is the raw limit that ran right before each run; Ratio is the median of the runs' rates as parts of its.
	Limit       string  `json:"limit,omitempty"`
	Ratio       float64 `json:"ratio,omitempty"`
	LowestRatio float64 `json:"ratio_lowest,omitempty"`
	BestRatio   float64 `json:"ratio_best,omitempty"`
	// FirstError is one of the errors counted.
	FirstError error `json:"-"`
}

// Err is nil if every operation of the case succeeded and nothing was lost, else an error that says what happened.
func (r Result) Err() error {
	switch {
	case r.Lost > 0 || r.Torn > 0:
		return fmt.Errorf("%s: %d acknowledged records are lost and %d are torn, the first one %w: keep the cluster's data and logs, this must never happen", r.Name, r.Lost, r.Torn, r.FirstError)
	case r.Errors > 0:
		return fmt.Errorf("%s: %d operations failed, the first with: %w", r.Name, r.Errors, r.FirstError)
	}
	return nil
}

// Header names the columns of Row, separated by tabs.
const Header = "NAME\tAMOUNT\tSECONDS\tRATE\tP50 MS\tP99 MS\tMAX MS\tCPU-S/GIB\tRATIO\tSYNC\tERRORS"

// Row is the result for people, in cells separated by tabs.
func (r Result) Row() string {
	var rates, amounts []string
	if r.Ops > 0 {
		amounts, rates = append(amounts, fmt.Sprintf("%d ops", r.Ops)), append(rates, fmt.Sprintf("%.0f/s", r.Rate))
	}
	if r.Bytes > 0 {
		amounts = append(amounts, fmt.Sprintf("%.0f MiB", float64(r.Bytes)/(1<<20)))
		rates = append(rates, fmt.Sprintf("%.0f MB/s", float64(r.Bytes)/1e6/max(r.Seconds, 1e-9)))
	}
	cpu := "-"
	if r.CPUPerGiB > 0 {
		cpu = fmt.Sprintf("%.2f", r.CPUPerGiB)
		if r.ServerCPUPerGiB > 0 {
			cpu += fmt.Sprintf("+%.2f", r.ServerCPUPerGiB)
		}
	}
	ratio := "-"
	if r.Ratio > 0 {
		ratio = fmt.Sprintf("%.2f (%.2f-%.2f) of %s", r.Ratio, r.LowestRatio, r.BestRatio, r.Limit)
	}
	errors := fmt.Sprint(r.Errors)
	if r.Lost+r.Torn > 0 {
		errors = fmt.Sprintf("%d, %d LOST, %d TORN", r.Errors, r.Lost, r.Torn)
	}
	return strings.Join([]string{
		r.Name, strings.Join(amounts, ", "), fmt.Sprintf("%.3f", r.Seconds), strings.Join(rates, ", "),
		fmt.Sprintf("%.3f", r.P50), fmt.Sprintf("%.3f", r.P99), fmt.Sprintf("%.3f", r.Max), cpu, ratio, string(r.Sync), errors,
	}, "\t")
}

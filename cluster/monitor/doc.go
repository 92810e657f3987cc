// Package monitor answers HTTP about the parts of one process: /metrics in Prometheus' text format and /healthz.
//
// Nothing is counted here. A scrape reads the counters that the parts also publish on metrics.*, under conventional
// names: cairn_master_requests_total{master="m1"}, cairn_chunkserver_read_bytes_total{server="…"}; go_* and process_*
// tell of the process. A name that ends in _total is a counter, all others are gauges.
//
// /healthz is 200 if every part of the process can do its work now, else 503; the text says what is missing. It tells a
// load balancer or a person, and is no reason to restart anything: a chunkserver that hears no master still serves reads.
//
// A server listens on loopback unless told otherwise, since nothing is authenticated, and has time limits for all that a
// caller can draw out.
package monitor

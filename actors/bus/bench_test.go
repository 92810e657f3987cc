package bus_test

import (
	"testing"

	"github.com/nats-io/nats.go/micro"

	"github.com/cairnfs/cairn/actors"
	"github.com/cairnfs/cairn/actors/bus"
)

const callers = 64

// BenchmarkAsk measures a whole round trip; compare with BenchmarkBareMicro.
func BenchmarkAsk(b *testing.B) {
	one, other := pair(b)
	serve(b, one, bus.ServiceConfig{Gate: actors.NewGate("requests", 1000)}, echo("echo"))
	b.ReportAllocs()
	b.SetParallelism(callers)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := bus.Ask(b.Context(), other, "echo", text("x"), text("")); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkBareMicro is the same echo without this package.
func BenchmarkBareMicro(b *testing.B) {
	one, other := pair(b)
	service, err := micro.AddService(one.NATS(), micro.Config{Name: "bare", Version: "1.0.0", QueueGroupDisabled: true})
	if err != nil {
		b.Fatal(err)
	}
	handler := micro.HandlerFunc(func(r micro.Request) {
		if err := r.Respond(r.Data()); err != nil {
			b.Error(err)
		}
	})
	if err := service.AddEndpoint("echo", handler); err != nil {
		b.Fatal(err)
	}
	if err := one.Flush(b.Context()); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.SetParallelism(callers)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if _, err := other.NATS().RequestWithContext(b.Context(), "echo", []byte("x")); err != nil {
				b.Fatal(err)
			}
		}
	})
}

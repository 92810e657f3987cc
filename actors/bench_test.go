package actors_test

import (
	"testing"

	"github.com/cairnfs/cairn/actors"
)

type tick struct{}

func (tick) Do(s *counter) { s.n++ }

type counter struct{ n int }

func BenchmarkSend(b *testing.B) {
	ref := actors.Spawn(newSystem(b), "bench", &counter{})
	b.ReportAllocs()
	for b.Loop() {
		ref.Send(tick{})
	}
	count(b, ref)
}

func BenchmarkSendParallel(b *testing.B) {
	ref := actors.Spawn(newSystem(b), "bench", &counter{})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			ref.Send(tick{})
		}
	})
	count(b, ref)
}

type question struct{ reply actors.Reply[int] }

func (q question) Do(s *counter) { q.reply.Ok(s.n) }

// count waits until all that was sent has run.
func count(tb testing.TB, ref actors.Ref[*counter]) int {
	n, err := actors.Ask(tb.Context(), ref, func(reply actors.Reply[int]) actors.Command[*counter] {
		return question{reply}
	})
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func BenchmarkAsk(b *testing.B) {
	ref := actors.Spawn(newSystem(b), "bench", &counter{})
	b.ReportAllocs()
	for b.Loop() {
		count(b, ref)
	}
}

func BenchmarkAskParallel(b *testing.B) {
	ref := actors.Spawn(newSystem(b), "bench", &counter{})
	b.ReportAllocs()
	b.SetParallelism(32)
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			count(b, ref)
		}
	})
}

func BenchmarkSpawnAndStop(b *testing.B) {
	system := newSystem(b)
	b.ReportAllocs()
	for b.Loop() {
		ref := actors.Spawn(system, "bench", &counter{})
		ref.Send(tick{})
		ref.Stop()
	}
}

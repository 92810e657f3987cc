package record

import (
	"fmt"
	"iter"
)

// Merge merges inputs, each sorted by compare, into one sorted sequence. It is stable: equal records come in the order of the
// inputs, and those of one input keep their order. It holds one record of each input. An input that is not sorted is
// merged as its records come.
//
// An error of an input ends the merge with an error that names the input by its index from 0, since what follows could not be
// placed. All inputs are released when the iteration ends, however it ends. Payloads are valid until the next step,
// and the inputs must not share a Reader. An input that waits, such as a followed file, makes the merge wait.
func Merge(compare func(a, b Record) int, inputs ...iter.Seq2[Record, error]) iter.Seq2[Record, error] {
	return func(yield func(Record, error) bool) {
		heads := make([]*head, 0, len(inputs))
		defer func() {
			for _, h := range heads {
				h.stop()
			}
		}()
		queue := make(heap, 0, len(inputs))
		for i, input := range inputs {
			next, stop := iter.Pull2(input)
			h := &head{index: i, next: next, stop: stop}
			heads = append(heads, h)
			if more, err := h.advance(); err != nil {
				yield(Record{}, err)
				return
			} else if more {
				queue = append(queue, h)
			}
		}
		for i := len(queue)/2 - 1; i >= 0; i-- {
			queue.down(i, compare)
		}
		for len(queue) > 0 {
			first := queue[0]
			if !yield(first.record, nil) {
				return
			}
			more, err := first.advance()
			if err != nil {
				yield(Record{}, err)
				return
			}
			if !more {
				last := len(queue) - 1
				queue[0] = queue[last]
				queue = queue[:last]
			}
			queue.down(0, compare)
		}
	}
}

// head is an input with its first record that was not handed out.
type head struct {
	index  int
	record Record
	next   func() (Record, error, bool)
	stop   func()
}

// advance takes the input's next record; more is false at its end.
func (h *head) advance() (more bool, err error) {
	h.record, err, more = h.next()
	if err != nil {
		return false, fmt.Errorf("input %d of the merge: %w", h.index, err)
	}
	return more, nil
}

// heap has the input whose record comes next at index 0.
type heap []*head

// down restores the order below index i, whose input has a new record.
func (q heap) down(i int, compare func(a, b Record) int) {
	before := func(a, b *head) bool {
		c := compare(a.record, b.record)
		return c < 0 || c == 0 && a.index < b.index
	}
	for {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(q); child++ {
			if before(q[child], q[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		q[i], q[least] = q[least], q[i]
		i = least
	}
}

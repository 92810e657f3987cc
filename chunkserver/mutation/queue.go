package mutation

// queue is first in, first out. The zero value is empty.
type queue[E any] struct {
	items []E
	head  int
}

func (q *queue[E]) len() int { return len(q.items) - q.head }

func (q *queue[E]) push(e E) {
	if q.head > 0 && len(q.items) == cap(q.items) && q.head >= len(q.items)/2 {
		n := copy(q.items, q.items[q.head:])
		clear(q.items[n:])
		q.items, q.head = q.items[:n], 0
	}
	q.items = append(q.items, e)
}

func (q *queue[E]) front() E { return q.items[q.head] }

func (q *queue[E]) pop() E {
	var none E
	e := q.items[q.head]
	q.items[q.head] = none
	q.head++
	if q.head == len(q.items) {
		q.items, q.head = q.items[:0], 0
	}
	return e
}

// all is the content, first in first. It is valid until the next push or pop.
func (q *queue[E]) all() []E { return q.items[q.head:] }

// filter keeps what keep says, in order.
func (q *queue[E]) filter(keep func(E) bool) {
	kept := q.items[:q.head]
	for _, e := range q.all() {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	clear(q.items[len(kept):])
	q.items = kept
}

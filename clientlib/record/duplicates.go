package record

// seenWords is the size of the bitmap that remembers which of a writer's latest MaxWindow sequences were met.
const seenWords = MaxWindow / 64

// marks is what is remembered of one writer: max was met, and of the MaxWindow sequences ending there those whose bit
// (sequence modulo MaxWindow) is set.
type marks struct {
	writer       uint64
	max          uint64
	seen         [seenWords]uint64
	older, newer *marks // in the order of the latest meeting
}

func (m *marks) get(sequence uint64) bool {
	i := sequence % MaxWindow
	return m.seen[i/64]&(1<<(i%64)) != 0
}

func (m *marks) set(sequence uint64) {
	i := sequence % MaxWindow
	m.seen[i/64] |= 1 << (i % 64)
}

// advance makes room up to sequence, which is above max: what was skipped is not met yet.
func (m *marks) advance(sequence uint64) {
	if sequence-m.max >= MaxWindow {
		m.seen = [seenWords]uint64{}
	} else {
		for s := m.max + 1; s <= sequence; s++ {
			i := s % MaxWindow
			m.seen[i/64] &^= 1 << (i % 64)
		}
	}
	m.max = sequence
}

// duplicates remembers which records were met: for at most limit writers, the least recently met is forgotten
// first. Memory is about 200 bytes a writer.
type duplicates struct {
	limit          int
	writers        map[uint64]*marks
	oldest, newest *marks
}

func newDuplicates(limit int) *duplicates {
	return &duplicates{limit: limit, writers: make(map[uint64]*marks)}
}

// first reports whether the record is met for the first time, and remembers it. What lies below a writer's window
// counts as met (the package's comment says why).
func (d *duplicates) first(writer, sequence uint64) bool {
	m := d.newest
	if m == nil || m.writer != writer {
		m = d.writers[writer]
	}
	if m == nil {
		d.add(&marks{writer: writer, max: sequence}).set(sequence)
		return true
	}
	d.touch(m)
	switch {
	case sequence > m.max:
		m.advance(sequence)
	case m.max-sequence >= MaxWindow || m.get(sequence):
		return false
	}
	m.set(sequence)
	return true
}

// add enters a writer as the newest.
func (d *duplicates) add(m *marks) *marks {
	if len(d.writers) >= d.limit {
		victim := d.oldest
		d.unlink(victim)
		delete(d.writers, victim.writer)
	}
	d.writers[m.writer] = m
	d.link(m)
	return m
}

func (d *duplicates) touch(m *marks) {
	if m != d.newest {
		d.unlink(m)
		d.link(m)
	}
}

func (d *duplicates) link(m *marks) {
	m.older, m.newer = d.newest, nil
	if d.newest != nil {
		d.newest.newer = m
	} else {
		d.oldest = m
	}
	d.newest = m
}

func (d *duplicates) unlink(m *marks) {
	if m.older != nil {
		m.older.newer = m.newer
	} else {
		d.oldest = m.newer
	}
	if m.newer != nil {
		m.newer.older = m.older
	} else {
		d.newest = m.older
	}
	m.older, m.newer = nil, nil
}

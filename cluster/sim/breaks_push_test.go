package sim

// pushBreaks take out what holds of data that are pushed ahead of their mutations.
var pushBreaks = []broken{
	{
		rule: "a name is no proof", seed: 154, checker: checkReference,
		edits: []edit{
			{"chunkserver/dataplane/pushstore.go", "return slices.Equal(p.sums, sums)", "return true || slices.Equal(p.sums, sums)"},
			{"chunkserver/dataplane/pushstore.go", "return wire.Verify(sums, offset, p.buffer.Data) == nil", "return true || wire.Verify(sums, offset, p.buffer.Data) == nil"},
		},
	},
	{
		rule: "pulled data are verified", seed: 9, checker: checkReference,
		edits: []edit{{"chunkserver/dataplane/push.go", "return wire.Verify(run.Checksums, run.Offset, run.Data)", "return nil"}},
	},
	{
		rule: "pushed data count when they are complete", seed: 3, checker: checkReference,
		edits: []edit{{"chunkserver/dataplane/push.go", "if in.left == 0 && in.failed == nil {", "if in.data != nil && in.failed == nil {"}},
	},
	{
		rule: "one mutation for a push", seed: 224, checker: checkPanic,
		edits: []edit{{"chunkserver/dataplane/pushstore.go", "if p == nil || p.claimed {", "if p == nil {"}},
	},
	{
		rule: "one push for a name", seed: 9, checker: checkSettled,
		edits: []edit{{"chunkserver/dataplane/pushstore.go", "if s.kept[p.key] != nil {", "if false {"}},
	},
	{
		rule: "pushed data are given back", seed: 2, checker: checkSettled,
		edits: []edit{{"chunkserver/dataplane/mutation.go", "if m.pushed != nil {\n\t\tm.pushed.release(1)\n\t}\n\tif m.answer != nil {", "if m.answer != nil {"}},
	},
	{
		rule: "their room is given back", seed: 2, checker: checkSettled,
		edits: []edit{{"chunkserver/dataplane/pushstore.go", "s.mu.Unlock()\n\ts.positions[p.position].put(len(p.buffer.Data))\n", "s.mu.Unlock()\n"}},
	},
	{
		rule: "what nobody asks for is dropped", seed: 2, checker: checkSettled,
		edits: []edit{{"chunkserver/dataplane/pushstore.go", "if !p.claimed && p.came.Before(limit) {", "if false && p.came.Before(limit) {"}},
	},
}

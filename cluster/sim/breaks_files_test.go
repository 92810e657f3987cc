package sim

// fileBreaks take out what holds of files that are truncated, removed and brought back, and of garbage.
var fileBreaks = []broken{
	{
		rule: "what a truncation touches is closed", seed: 2, checker: checkCut,
		edits: []edit{
			{"master/truncation.go", "case err == nil && len(need.Open) > 0:", "case false:"},
			{"master/namespace/truncate.go", "case len(p.Open) > 0:", "case false:"},
		},
	},
	{
		rule: "what it has closed stays closed", seed: 138, checker: checkCut,
		edits: []edit{
			{"master/truncation.go", "return t != nil && index >= t.first", "return false && t != nil && index >= t.first"},
			{"master/namespace/truncate.go", "case len(p.Open) > 0:", "case false:"},
		},
	},
	{
		rule: "the copy holds what was there", seed: 2, checker: checkCut,
		edits: []edit{{"chunkserver/copy.go", "for at := int64(0); at < length; {", "for at := int64(gfs.BlockSize); at < length; {"}},
	},
	{
		rule: "the table ends at the cut", seed: 864, checker: checkDurable,
		edits: []edit{{"chunkserver/copy.go", "table.Below(order.Length)", "table"}},
	},
	{
		rule: "the table is kept below the cut", seed: 12, checker: checkDurable,
		edits: []edit{{"chunkserver/copy.go", "table.Below(order.Length)", "table.Below(0)"}},
	},
	{
		rule: "where a truncation cuts", seed: 10, checker: checkLeft,
		edits: []edit{{"master/namespace/truncate.go", "splitRuns(n.runs, keep-n.spilled)", "splitRuns(n.runs, keep-1-n.spilled)"}},
	},
	{
		rule: "what lies behind the end goes", seed: 10, checker: checkCut,
		edits: []edit{{"master/namespace/truncate.go", "int((size + gfs.ChunkSize - 1) / gfs.ChunkSize)", "int(size/gfs.ChunkSize) + 1"}},
	},
	{
		rule: "gone before the client hears", seed: 10, checker: checkCut,
		edits: []edit{{"master/truncation.go", "retireChunks{c.period, c.outcome.Dropped, func() {", "retireChunks{c.period, nil, func() {"}},
	},
	{
		rule: "reads are linearized", seed: 148, checker: checkCut,
		edits: []edit{{"master/reads.go", "e.around.LinearizeAsync(func(err error) {", "func(then func(error)) { then(nil) }(func(err error) {"}},
	},
	{
		rule: "a retry takes effect once", seed: 12, checker: checkChange,
		edits: []edit{{"master/namespace/sessions.go", "out, found := s.recall(id, sequence)", "out, found := Outcome{}, false"}},
	},
	{
		rule: "the trash keeps its time", seed: 16, checker: checkLeft,
		edits: []edit{{"master/scanner_actor.go", "now.Add(-s.trash)", "now.Add(-s.trash / 2)"}},
	},
	{
		rule: "what is brought back stays", seed: 32, checker: checkLeft,
		edits: []edit{{"master/namespace/trash.go", "s.forgetRemoval(t.path, removed, id)", "_ = removed"}},
	},
	{
		rule: "a good replica is no garbage", seed: 5, checker: checkKept,
		edits: []edit{
			{"master/registry/garbage.go", "case e.good(logged.Version) || good == 0:", "case good == 0:"},
			{"master/registry/garbage.go", "case e.state != gfs.ReplicaCorrupt && e.active >= logged.Version:", "case false:"},
		},
	},
	{
		rule: "garbage is collected", seed: 8, checker: checkSettled,
		edits: []edit{{"master/collector.go", "if _, busy := c.under[g.ID]; !busy && last != nil", "if _, busy := c.under[g.ID]; false && !busy && last != nil"}},
	},
	{
		rule: "what is being made is no garbage", seed: 72, checker: checkSettled,
		edits: []edit{{"master/garbage.go", "if s.leaseActors[g.Handle] != nil || s.copies[g.Handle] || g.Handle >= s.handles.next {", "if g.Handle >= s.handles.next {"}},
	},
}

package sim

// diskBreaks take out what holds while disks fail, are full or forget.
var diskBreaks = []broken{
	{
		rule: "fsync of the data", seed: 7, checker: checkOnDisk,
		edits: []edit{{"chunkserver/store/sync.go", "if err := c.data.sync(); err != nil {\n\t\treturn r.dir.fail(r.handle, err)\n\t}\n", "_ = c.data.sync()\n"}},
	},
	{
		rule: "fsync of the checksums", seed: 3639, checker: checkDurable,
		edits: []edit{{"chunkserver/store/sync.go", "if err := c.meta.sync(); err != nil {\n\t\treturn r.dir.fail(r.handle, err)\n\t}\n", "_ = c.meta.sync()\n"}},
	},
	{
		rule: "a failed fsync fails the disk", seed: 39, checker: checkSettled,
		edits: []edit{{"chunkserver/store/sync.go", "d.failed.Store(true)\n", "\n"}},
	},
	{
		rule: "the next process knows of it", seed: 39, checker: checkSettled,
		edits: []edit{{"chunkserver/store/sync.go", "d.index.later(change{bucketServer, []byte(keyBoot), []byte(\"failed\")})\n", "\n"}},
	},
	{
		rule: "a short write is an error", seed: 30, checker: checkOnDisk,
		edits: []edit{{"chunkserver/store/file.go", "if _, werr := f.WriteAt(b[:n], off); werr != nil {\n\t\t\treturn werr\n\t\t}\n", "_, werr := f.WriteAt(b[:n], off)\n\t\treturn werr\n"}},
	},
	{
		rule: "a failed commit changes nothing", seed: 7, checker: checkVersions,
		edits: []edit{{"chunkserver/store/replica.go", "if err := r.dir.commit(rowChange(r.handle, next.noted(unsynced))); err != nil {\n\t\treturn err\n\t}\n", "_ = r.dir.commit(rowChange(r.handle, next.noted(unsynced)))\n"}},
	},
	{
		rule: "a failed overwrite is looked at", seed: 2431, checker: checkSettled,
		edits: []edit{{"chunkserver/store/write.go", "c.salvage()\n", "\n"}},
	},
	{
		rule: "no space: nothing was done", seed: 263, checker: checkOnce,
		edits: []edit{{"chunkserver/chunk_primary.go", "c.endOrderBefore(serial, c.notPrimary(), refused)\n\t\tif full {", "c.endOrder(refused)\n\t\tif full {"}},
	},
	{
		rule: "the holder declares itself corrupt", seed: 103, checker: checkSettled,
		edits: []edit{{"chunkserver/corrupt.go", "if replica.Status().State != gfs.ReplicaMember {", "if true {"}},
	},
	{
		rule: "reads are checked", seed: 23, checker: checkDurable,
		edits: []edit{{"chunkserver/store/read.go", "if got := checksum(b); got != want {\n\t\treturn gfs.Errorf(gfs.CodeCorrupt, \"chunk %s block %d has checksum", "if got := checksum(b); false {\n\t\treturn gfs.Errorf(gfs.CodeCorrupt, \"chunk %s block %d has checksum"}},
	},
}

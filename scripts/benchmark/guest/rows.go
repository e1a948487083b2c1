package guest

import "fmt"

// Sides.
const (
	tenon    = "tenon"
	tenonDAX = "tenon, DAX"
	qemuC    = "qemu7+c"
	qemuRust = "qemu10+rust"
)

// Rows that something is claimed of or that are made outside of guests.
const (
	bootRow     = "boot to init"
	bootQ35Row  = "boot to init, QEMU's q35"
	bootRootRow = "boot to init on the share"
	rssRow      = "host memory, RSS"
	pssRow      = "host memory, PSS"
	clockRow    = "clock"
	randReadRow = "randread 4K psync direct"
	seqReadRow  = "read 1M psync direct"
	seqWriteRow = "write 1M psync direct"
	touchRow    = "mmap randread 4K, warm, file of twice the guest's memory"
	totalRow    = "metadata, total"
)

// sizes is how much of everything is done. They are for an emulated machine.
type sizes struct {
	Memory  int   // MiB of the guests
	Big     int64 // bytes of the file that does not fit into a guest
	File    int64 // of the others
	Small   int   // operations of 4 KiB
	Large   int   // of 1 MiB
	Touches int
	Names   int
	Dirs    int // of the tree
	PerDir  int // files
	Fio     int // operations of a job of 4 KiB
}

var fullSizes = sizes{Memory: 256, Big: 512 << 20, File: 16 << 20, Small: 2000, Large: 16, Touches: 300, Names: 1000, Dirs: 4, PerDir: 12, Fio: 100}

var smokeSizes = sizes{Memory: 256, Big: 8 << 20, File: 4 << 20, Small: 30, Large: 2, Touches: 30, Names: 10, Dirs: 2, PerDir: 2, Fio: 20}

// Files and directories of a share.
const (
	tinyFile  = "tiny" // the tiny init
	bigFile   = "big"
	readFile  = "file"
	writeFile = "written"
	fioFile   = "fio"
	treeTar   = "tree.tar"
	gitDir    = "git"
)

// caches are the policies, by the names Tenon has for them.
var caches = []string{"never", "auto", "always"}

// mapped is where mapped files can stay in a guest's cache; never has none. One policy
// will do: while a file is open they do not differ.
var mapped = []string{"auto"}

// work is what a guest does for the claimed rows and the metadata.
func (z sizes) work() []step {
	random := step{Do: transfer, File: readFile, Block: 4 << 10, Count: z.Small, Random: true, Direct: true}
	whole := step{Do: transfer, File: readFile, Block: 1 << 20, Count: z.Large}
	touches := step{Do: touch, File: readFile, Block: page, Count: z.Touches, Random: true, Caches: mapped}
	row := func(t step, row string, change func(*step)) step {
		t.Row = row
		if change != nil {
			change(&t)
		}
		return t
	}
	write := func(t *step) { t.File, t.Write = writeFile, true }
	return []step{
		row(random, randReadRow, nil),
		row(random, "randwrite 4K psync direct", write),
		row(whole, seqReadRow, func(t *step) { t.Direct = true }),
		row(whole, seqWriteRow, func(t *step) { write(t); t.Direct = true }),
		row(whole, "read 1M psync buffered, cold", nil),
		row(whole, "write 1M psync buffered", write),
		row(touches, "mmap randread 4K, cold", nil),
		row(touches, "mmap randread 4K, warm, the file fits", func(t *step) { t.Warm = true }),
		row(touches, touchRow, func(t *step) { t.File, t.Warm = bigFile, true }),
	}
}

// metadata is what is done with names and small files. Each step needs those before it.
func (z sizes) metadata() []step {
	return []step{
		{Row: "create", Do: create, Dir: scratch + "/names", Count: z.Names, Total: true},
		{Row: "stat", Do: stat, Dir: scratch + "/names", Count: z.Names, Total: true},
		{Row: "unlink", Do: unlink, Dir: scratch + "/names", Count: z.Names, Total: true},
		{Row: "untar", Do: command, Dir: scratch, Args: []string{"tar", "xf", "../" + treeTar}, Total: true},
		{Row: "find", Do: command, Dir: scratch, Args: []string{"find", "tree"}, Lines: 2 + z.Dirs + z.Dirs*z.PerDir, Total: true},
		{Row: "make", Do: command, Dir: scratch + "/tree", Args: []string{"make", "-s"}, Total: true},
		{Row: "git status", Do: command, Dir: gitDir, Args: []string{"git", "--no-optional-locks", "status", "--porcelain"}, Total: true},
	}
}

// rest is when processes are weighed.
var rest = step{Row: "rest", Do: idle}

// settled is the work after which a guest's processes are weighed.
func (z sizes) settled() []step {
	return []step{
		{Row: randReadRow, Do: transfer, File: readFile, Block: 4 << 10, Count: z.Small, Random: true, Direct: true},
		{Row: seqReadRow, Do: transfer, File: readFile, Block: 1 << 20, Count: z.Large},
		{Row: "create", Do: create, Dir: scratch + "/names", Count: z.Names},
		{Row: "unlink", Do: unlink, Dir: scratch + "/names", Count: z.Names},
		{Row: "untar", Do: command, Dir: scratch, Args: []string{"tar", "xf", "../" + treeTar}},
		rest,
	}
}

// withCache is the name of a row under a cache policy.
func withCache(row, cache string) string { return fmt.Sprintf("%s, cache=%s", row, cache) }

package jinja

// expr is a node of an expression.
type expr interface{ eval(st *state) Value }

// stmt is a node of a template's body.
type stmt interface{ exec(st *state) flow }

// target is what can be assigned to: a name, an attribute of a namespace, or a tuple of targets.
type target interface {
	assign(st *state, v Value)
	names() []string
}

// flow says how a statement ended.
type flow uint8

const (
	flowNext flow = iota
	flowBreak
	flowContinue
)

type (
	textStmt  struct{ text string }
	printStmt struct {
		value expr
		line  int
	}
	setStmt struct {
		to         target
		namespaces []string // in to
		value      expr
		line       int
	}
	setBlockStmt struct {
		to     target
		filter expr // of the captured text; nil for none
		body   []stmt
		frame  *frame
		line   int
	}
	ifStmt struct {
		tests  []expr
		bodies [][]stmt
		orElse []stmt
		lines  []int
	}
	forStmt struct {
		to        target
		over      expr
		test      expr // nil for none
		body      []stmt
		frame     *frame
		orElse    []stmt
		elseFrame *frame
		usesLoop  bool
		recursive bool
		line      int
	}
	withStmt struct {
		to     []target
		values []expr
		body   []stmt
		frame  *frame
		line   int
	}
	macroStmt struct {
		name string
		def  *macroDef
	}
	callStmt struct {
		call *callExpr
		def  *macroDef // the body, which the called macro gets as caller
		line int
	}
	filterStmt struct {
		filter expr
		body   []stmt
		frame  *frame
		line   int
	}
	generationStmt struct {
		def  *macroDef
		line int
	}
	breakStmt    struct{}
	continueStmt struct{}
)

// macroDef is a macro, or the body of a call block.
type macroDef struct {
	name       string
	params     []string
	defaults   []expr // of the last params
	body       []stmt
	frame      *frame
	line       int
	usesCaller bool // its body refers to caller, kwargs, varargs
	usesKwargs bool
	usesRest   bool
}

type (
	nameTarget  string
	tupleTarget []target
	attrTarget  struct{ name, attr string }
)

type (
	constExpr struct{ value Value }
	nameExpr  struct{ name string }
	tupleExpr struct{ items []expr }
	listExpr  struct{ items []expr }
	dictExpr  struct{ keys, values []expr }

	binaryExpr struct {
		op          string
		left, right expr
		line        int
	}
	andExpr  struct{ left, right expr }
	orExpr   struct{ left, right expr }
	notExpr  struct{ of expr }
	signExpr struct {
		op string
		of expr
	}
	compareExpr struct {
		first expr
		ops   []string
		rest  []expr
	}
	concatExpr struct{ parts []expr }
	condExpr   struct {
		test, then expr
		orElse     expr // nil for none
	}
	attrExpr struct {
		of   expr
		name string
		line int
	}
	itemExpr struct {
		of, key expr
		line    int
	}
	sliceExpr struct {
		of                expr
		start, stop, step expr // nil for none
		line              int
	}
	callExpr struct {
		fn   expr
		args argList
		line int
	}
	filterExpr struct {
		of   expr // nil in a filter block: the captured text
		name string
		fn   filterFunc // nil if there is no such filter
		args argList
		line int
	}
	testExpr struct {
		of   expr
		name string
		fn   testFunc
		args argList
		line int
	}
)

// argList are the arguments of a call as written.
type argList struct {
	pos   []expr
	names []string // of kw
	kw    []expr
	rest  expr // *rest
	rekw  expr // **rekw
}

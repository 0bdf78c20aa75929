package jinja

import "math"

// listMethod returns a method of list that does not change it.
func listMethod(name string) methodFunc {
	if name == "copy" {
		return func(st *state, self Value, a callArgs) Value {
			a.positional("copy", 0, 0)
			return &list{st.concat(self.(*list).items, nil)}
		}
	}
	return tupleMethod(name)
}

func tupleMethod(name string) methodFunc {
	switch name {
	case "count":
		return func(st *state, self Value, a callArgs) Value {
			v := a.positional("count", 1, 1)[0]
			n := int64(0)
			for _, e := range st.items(self) {
				if same(e, v) || st.equal(e, v) {
					n++
				}
			}
			return n
		}
	case "index":
		return sequenceIndex
	}
	return nil
}

func sequenceIndex(st *state, self Value, a callArgs) Value {
	args := a.positional("index", 1, 3)
	items := st.items(self)
	var bounds [2]Value
	copy(bounds[:], args[1:])
	from, n, _ := sliceBounds(len(items), bounds[0], bounds[1], nil)
	for i, e := range items[from : from+n] {
		if same(e, args[0]) || st.equal(e, args[0]) {
			return int64(from + i)
		}
	}
	valueError("%s is not in list", plainRepr(args[0]))
	return nil
}

// dictMethod returns a method of dict that does not change it.
func dictMethod(name string) methodFunc {
	switch name {
	case "keys":
		return view(name, viewKeys)
	case "values":
		return view(name, viewValues)
	case "items":
		return view(name, viewItems)
	case "get":
		return func(st *state, self Value, a callArgs) Value {
			args := a.positional("get", 1, 2)
			if v, ok := self.(*Dict).get(args[0]); ok {
				return v
			}
			if len(args) > 1 {
				return args[1]
			}
			return nil
		}
	case "copy":
		return func(st *state, self Value, a callArgs) Value {
			a.positional("copy", 0, 0)
			st.charge(self.(*Dict).Len())
			return self.(*Dict).Clone()
		}
	case "fromkeys":
		return func(st *state, self Value, a callArgs) Value { return dictFromKeys(st, a) }
	}
	return nil
}

func view(name string, part viewPart) methodFunc {
	return func(st *state, self Value, a callArgs) Value {
		a.positional(name, 0, 0)
		return &dictView{self.(*Dict), part}
	}
}

func floatIsInteger(st *state, self Value, a callArgs) Value {
	a.positional("is_integer", 0, 0)
	f := self.(float64)
	return f == math.Trunc(f) && !math.IsInf(f, 0)
}

package models

import "context"

// SharedInputs returns for each linear of the layers, by path, the path of the first linear that has the same input: q_proj's
// for k_proj and v_proj.
func (m *CausalLM) SharedInputs() map[string]string {
	first := map[string]string{}
	for i := range m.run.Layers {
		for _, g := range m.arch.tensors().Groups {
			for _, lin := range g {
				first[layerPrefix(i)+lin.Name] = layerPrefix(i) + g[0].Name
			}
		}
	}
	return first
}

// LinearInputs hands to visit what goes into the linears of the layers when the model runs over ids [batch][seq], without
// adapters: once for linears that share it, by the path of the first of them, values [batch·seq, In] row after row. mask is as
// for [CausalLM.Logits]. Package peft initializes adapters by it.
func (m *CausalLM) LinearInputs(ctx context.Context, ids, mask [][]int, visit func(path string, values []float32) error) error {
	flat, segments, err := flatten(ids, mask)
	if err != nil {
		return err
	}
	var names []string
	for _, g := range m.arch.tensors().Groups {
		names = append(names, g[0].Name)
	}
	return m.run.LinearInputs(ctx, flat, segments, len(ids), len(ids[0]), names, func(layer int, name string, values []float32) error {
		return visit(layerPrefix(layer)+name, values)
	})
}

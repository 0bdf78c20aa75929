package peft

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/loris-ml/loris/models"
)

// withModel runs an example on a tiny Llama.
func withModel(run func(model *models.CausalLM) error) {
	model, err := models.FromPretrained(context.Background(), filepath.Join("..", "models", "testdata", "bnb_none"), models.Options{})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer model.Close()
	if err := run(model); err != nil {
		fmt.Println(err)
	}
}

func ExamplePeftModel_AddWeightedAdapter() {
	withModel(func(model *models.CausalLM) error {
		p, err := FromPretrained(model, combinedDir("a"))
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.LoadAdapter("b", combinedDir("b")); err != nil {
			return err
		}
		o := WeightedOptions{CombinationType: CombineTIES, Density: 0.5}
		if err := p.AddWeightedAdapter("both", []string{DefaultAdapter, "b"}, []float64{0.7, 0.3}, o); err != nil {
			return err
		}
		joined, _ := p.AdapterConfig("both")
		cfg := joined.(LoraConfig)
		fmt.Println(cfg.R, cfg.TargetModules)
		return p.SetAdapter("both")
	})
	// Output: 2 ["down_proj", "q_proj", "v_proj"]
}

func ExamplePeftModel_PrepareHotswap() {
	withModel(func(model *models.CausalLM) error {
		p, err := FromPretrained(model, combinedDir("a"))
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.LoadAdapter("c", combinedDir("c")); err != nil {
			return err
		}
		if err := p.PrepareHotswap(8); err != nil { // ranks up to 8 share programs from here on
			return err
		}
		use := func(name string) error {
			if err := p.SetAdapter(name); err != nil {
				return err
			}
			_, err := p.Logits(context.Background(), [][]int{{1, 2, 3}}, nil)
			return err
		}
		if err := use(DefaultAdapter); err != nil {
			return err
		}
		compiled := model.CompiledPrograms()
		if err := use("c"); err != nil {
			return err
		}
		fmt.Println(model.CompiledPrograms() - compiled)
		return nil
	})
	// Output: 0
}

func ExamplePeftModel_Hotswap() {
	withModel(func(model *models.CausalLM) error {
		p, err := FromPretrained(model, combinedDir("a"))
		if err != nil {
			return err
		}
		defer p.Close()
		fmt.Println(p.Hotswap(DefaultAdapter, combinedDir("c")) != nil) // another rank: PrepareHotswap comes first
		return nil
	})
	// Output: true
}

func ExamplePeftModel_MergeAdapter() {
	withModel(func(model *models.CausalLM) error {
		p, err := FromPretrained(model, combinedDir("a"))
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.MergeAdapter(true); err != nil {
			return err
		}
		fmt.Println(p.MergedAdapters()) // model itself computes with them now
		return p.UnmergeAdapter()
	})
	// Output: [default]
}

func ExamplePeftModel_SaveConverted() {
	withModel(func(model *models.CausalLM) error {
		dir, err := os.MkdirTemp("", "converted-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		p, err := GetPeftModel(model, LoraConfig{R: 4, InitLoraWeights: InitPiSSANiter(8)})
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.SavePretrained(filepath.Join(dir, "initial")); err != nil {
			return err
		}
		// … training …
		if err := p.SaveConverted(filepath.Join(dir, "adapter"), filepath.Join(dir, "initial")); err != nil {
			return err
		}
		read, _, err := ReadConfig(filepath.Join(dir, "adapter"))
		if err != nil {
			return err
		}
		cfg := read.(LoraConfig)
		fmt.Println(cfg.R, cfg.InitLoraWeights)
		return nil
	})
	// Output: 8 true
}

func ExamplePeftModel_SavePlain() {
	withModel(func(model *models.CausalLM) error {
		dir, err := os.MkdirTemp("", "plain-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		p, err := GetPeftModel(model, LoraConfig{R: 4, LoraAlpha: 6, UseRSLora: true, RankPattern: Ranks{{Key: "v_proj", Value: 2}}})
		if err != nil {
			return err
		}
		defer p.Close()
		if err := p.SavePlain(dir); err != nil {
			return err
		}
		read, _, err := ReadConfig(dir)
		if err != nil {
			return err
		}
		cfg := read.(LoraConfig)
		fmt.Println(cfg.R, cfg.LoraAlpha, cfg.UseRSLora, len(cfg.RankPattern))
		return nil
	})
	// Output: 4 4 false 0
}

func ExamplePeftModel_InitializeEVA() {
	withModel(func(model *models.CausalLM) error {
		p, err := GetPeftModel(model, LoraConfig{R: 2, InitLoraWeights: InitEVA, TargetModules: Modules("q_proj", "down_proj")})
		if err != nil {
			return err
		}
		defer p.Close()
		batch := EVABatch{IDs: [][]int{{5, 9, 3, 11, 7, 23, 6, 40}, {4, 8, 30, 2, 40, 12, 9, 33}}}
		if err := p.InitializeEVA(context.Background(), []EVABatch{batch}); err != nil {
			return err
		}
		ranks := 0
		for _, t := range p.Targets() {
			ranks += t.R
		}
		fmt.Println(ranks) // as many as before, where they explain most
		return nil
	})
	// Output: 8
}

func ExampleConfig() {
	withModel(func(model *models.CausalLM) error {
		for _, cfg := range []Config{
			LoraConfig{R: 8},
			IA3Config{},
			LoHaConfig{R: 4, TargetModules: AllLinear},
			LoKrConfig{R: 4, TargetModules: AllLinear},
			OFTConfig{OFTBlockSize: 4},
			VeraConfig{R: 64},
			BOFTConfig{},
			AdaLoraConfig{InitR: 12, TargetR: 8, TotalStep: 1000},
		} {
			p, err := GetPeftModel(model, cfg)
			if err != nil {
				return err
			}
			fmt.Printf("%-8s%s\n", cfg.Type(), p.TrainableParameters())
			if err := p.Close(); err != nil {
				return err
			}
		}
		return nil
	})
	// Output:
	// LORA    trainable params: 1,920 || all params: 25,284 || trainable%: 7.5937
	// IA3     trainable params: 152 || all params: 23,516 || trainable%: 0.6464
	// LOHA    trainable params: 8,064 || all params: 31,428 || trainable%: 25.6586
	// LOKR    trainable params: 1,056 || all params: 24,420 || trainable%: 4.3243
	// OFT     trainable params: 216 || all params: 23,580 || trainable%: 0.9160
	// VERA    trainable params: 352 || all params: 23,716 || trainable%: 1.4842
	// BOFT    trainable params: 672 || all params: 24,036 || trainable%: 2.7958
	// ADALORA trainable params: 2,928 || all params: 26,292 || trainable%: 11.1365
}

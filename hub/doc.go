// Package hub finds models and data sets by their ids, such as "Qwen/Qwen3-0.6B", in the cache that Python's huggingface_hub
// keeps, and downloads them into it.
//
// [Find] and [FindDataset] never use the network; models.FromPretrained, tokenizer.FromPretrained and dataset.Load call them
// for what is no path. Only [Download] and [List] do, for those who call them. Layout: models--ORG--NAME or datasets--ORG--NAME
// with refs/REVISION (a commit), snapshots/COMMIT (links) and blobs/ETAG, in $HF_HUB_CACHE, else $HF_HOME/hub, else $XDG_CACHE_HOME/huggingface/hub, else ~/.cache/huggingface/hub.
package hub

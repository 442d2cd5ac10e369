import sys, torch, torch.distributed as dist, copy
from pathlib import Path
from infra.settings import torchrun_rank
from tests.trainer.planted import *
from trainer import sharding, resume
from trainer.config import TrainingConfig
from trainer.checkpoint import save_state
from trainer.pipeline import Steps
from trainer.staging import Stager
from features.batches import Encoder
N=int(__import__('os').environ.get("A_N","66"))
def share(rank, ws):
    config = TrainingConfig.of(planted_recipe()); enc = Encoder(SCHEMA, tasks=config.task_names)
    rows = planted_examples(N*12, seed=3).select(enc.columns); size=N//ws
    for s in range(12):
        b = enc.encode(rows.slice(s*N+rank*size,size).combine_chunks()); b.num_examples=torch.tensor(float(size)); yield b
def flat(p,v,out):
    if isinstance(v,dict):
        for k,x in v.items(): flat(f"{p}/{k}",x,out)
    elif hasattr(v,"local_shards"):
        for i,s in enumerate(v.local_shards()): out[f"{p}#{i}"]=s.tensor.clone()
    elif isinstance(v,torch.Tensor): out[p]=v.clone()
    return out
def main(to):
    r, ws, _ = torchrun_rank()
    dist.init_process_group("gloo", init_method=f"file://{to}.store", rank=r, world_size=ws)
    m={"sums":torch.zeros(1)}
    def run(resumed, rehearse, force=False):
        snaps=[]
        sh = sharding.build(TrainingConfig.of(planted_recipe()), local_world_size=ws)
        ddp=sh.module._dmp_wrapped_module
        if force: ddp.reducer._push_all_rebuilt_params(); print('DIFF rebuilt', ddp.reducer._rebuild_buckets(), flush=True)
        batches=list(share(r,ws)); first=0
        if resumed:
            if not rehearse: resume.rehearse=lambda *a: None
            resume.restore(Path(to)/"mid", sh, m, batch=batches[6]); first=6
            snaps.append(flat("",sh.state_dict(),{}))
        rec=[]
        def fwd(b):
            loss,o=sh.module(b); rec.append(loss.detach().clone()); return loss,o
        st=Steps(sh, fwd); it=iter(batches[first:])
        for s in range(first,8):
            st.progress(it)
            ld=ddp._get_ddp_logging_data()
            if r==0: print('DIFF',resumed,force,s,{k:v for k,v in ld.items() if 'bucket' in k or k.startswith('prev')}, flush=True)
            if s==5 and not resumed: save_state(Path(to)/"mid", resume.state_of(sh, m))
            if s>=5: 
                d=flat("",sh.state_dict(),{})
                d.update({"grad/"+n:p.grad.clone() for n,p in sh.core.named_parameters() if p.grad is not None})
                d["loss"]=rec[-1]
                snaps.append(d)
        return snaps
    import shutil
    for force in (False,True):
        a=run(False,False,force); dist.barrier(); b=run(True,True,force); dist.barrier()
        for i in range(3):
            d=[k for k in b[i] if not torch.equal(a[i][k],b[i][k])]
            print("DIFF",r,force,i,len(d),len(b[i]), flush=True)
        if r==0: shutil.rmtree(Path(to)/"mid")
        dist.barrier()
    dist.destroy_process_group()

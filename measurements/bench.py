import sys, time, statistics as st
from dataclasses import replace
from concurrent.futures import ThreadPoolExecutor
import torch
from layerroute.backbone.hopper import compiler, driver, stepper as hs
from layerroute.backbone.hopper.layout import choose_layout
from layerroute.backbone.hopper.stepper import HopperStepper
from layerroute.backbone.kv_cache import visits_of
from layerroute.backbone.model import Backbone
from layerroute.backbone.weights import BackboneWeights, random_weights
from layerroute.benchmark.shapes import SHAPES
from layerroute.program import LayerProgram
T0=time.time()
dev=torch.device("cuda")
c=SHAPES["Qwen2.5-0.5B"]
bb=Backbone(c, random_weights(c, dev, torch.bfloat16))
cache=bb.new_cache(24, 4096)
for x in (cache.keys_SKTH, cache.values_SKTH): x.normal_()
V24=visits_of(LayerProgram(tuple(range(24)),24),"generation")
V12=visits_of(LayerProgram(tuple(range(0,24,2)),24),"generation")
V0=()
SM=torch.cuda.get_device_properties(dev).multi_processor_count
base=choose_layout(c, SM)
def copy_bw():
    a=torch.empty(1<<30,dtype=torch.uint8,device=dev); b=torch.empty_like(a)
    r=[]
    for _ in range(8):
        e=[torch.cuda.Event(enable_timing=True) for _ in "ab"]; e[0].record(); b.copy_(a); e[1].record(); torch.cuda.synchronize(); r.append(e[0].elapsed_time(e[1]))
    return 2*(1<<30)/st.median(r)/1e6
@torch.inference_mode()
def t(s, visits=V24, ctx=512, reps=5):
    ids=[(i*37)%1000 for i in range(64)]
    s.step(ids, ctx, visits, cache); torch.cuda.synchronize()
    r=[]
    for _ in range(reps):
        e=[torch.cuda.Event(enable_timing=True) for _ in "ab"]
        e[0].record(); s.step(ids, ctx, visits, cache); e[1].record(); torch.cuda.synchronize()
        r.append(e[0].elapsed_time(e[1])*1000/64)
    return st.median(r)
cubins={}
def build(jobs):
    def one(j):
        name, layout, edits = j
        text=compiler.source()
        for a,b in edits:
            assert a in text, a
            text=text.replace(a,b)
        o=[f"--gpu-architecture={compiler.ARCHITECTURE}","--std=c++17"]+[f"-D{k}={v}" for k,v in layout.defines().items()]
        return name, compiler.compile_source(text,o)
    with ThreadPoolExecutor(14) as ex:
        for n,cub in ex.map(one, jobs): cubins[n]=cub
def make(name, layout):
    driver.compiled=lambda l: cubins[name]
    return HopperStepper(bb, layout)
def trace(s, ctx, label, per):
    for _ in range(4): s.step([5,6,7,8],ctx,V24,cache)
    torch.cuda.synchronize()
    x=s.trace.cpu().double()[:90, :24*per].view(90,24,per)
    flat=x.reshape(90,-1); d=flat.diff(dim=1)
    d=torch.cat([torch.zeros(90,1),d],1).view(90,24,per)[:,2:]
    print(label,"ctx",ctx,"cycles between stamps, median / 90%:", [f"{int(d[...,i].median())}/{int(d[...,i].flatten().quantile(.9))}" for i in range(per)], "visit", int(d.sum(-1).median()))
    att=s.trace.cpu().double()[SM-1,:48].view(24,2)
    print("   attention CTA: taken->published", int((att[:,1]-att[:,0]).median()), "published->taken", int((att[1:,0]-att[:-1,1]).median()),flush=True)

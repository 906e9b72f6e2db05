"""hopper against triton in one process, through the device loop too; then correctness. Run with PYTHONPATH=. or =old."""
import random
from bench import *
from layerroute.backbone.triton_step import TritonStepper
from layerroute.engine.request import Sampling
from layerroute.engine.token_loop import TokenLoops
print(torch.cuda.get_device_name(), "copy GB/s %.0f"%copy_bw())
hop, tri = HopperStepper(bb), TritonStepper(bb)
for ctx in (512, 3800):
    for name, v in (("24", V24), ("12", V12)):
        print(f"{name}@{ctx} hopper {t(hop,v,ctx):.1f} triton {t(tri,v,ctx):.1f} us a step", flush=True)
@torch.inference_mode()
def loop_us(s, v, ctx, n=128):
    loops=TokenLoops(bb, s, frozenset()); r=[]
    for _ in range(4):
        loop=loops.start(Sampling(), torch.randn(c.vocab_size,device=dev), ctx, v, cache)
        torch.cuda.synchronize(); a=time.perf_counter(); loop.sample(None)
        for _ in range(n): loop.step(); loop.sample(None); loop.take()
        loop.take(); r.append((time.perf_counter()-a)*1e6/n)
    return loops.reason, st.median(r[1:])
for name, s in (("hopper",hop),("triton",tri)): print("loop", name, *loop_us(s,V24,512), *loop_us(s,V12,512), flush=True)
w=BackboneWeights(*(getattr(bb.weights,n).float() for n in BackboneWeights.__slots__)); ref=Backbone(c,w)
rule3=[tuple(range(24)),tuple(range(1,24)),tuple(range(23)),tuple(range(0,24,2)),(0,1,2,2,*range(3,24)),(*range(8),*range(4,8),*range(8,24)),(0,3,3,5,*range(9,24))]
worst=0.0
with torch.inference_mode():
    for p in rule3:
        vis=visits_of(LayerProgram(p,24),"sequence"); slots=max(v.slot for v in vis)+1
        ex,ours=ref.new_cache(slots,640),bb.new_cache(slots,640)
        ref.forward(torch.arange(600,device=dev)*7%5000,0,vis,ex)
        for a,b in ((ex.keys_SKTH,ours.keys_SKTH),(ex.values_SKTH,ours.values_SKTH)): b.copy_(a); a.copy_(b)
        was=ours.keys_SKTH.clone()
        want=ref.logits(ref.forward(torch.tensor([77],device=dev),600,vis,ex)[-1:])[0]
        got=hop.step([77],600,vis,ours).clone(); again=hop.step([77],600,vis,ours).clone()
        assert torch.equal(got,again); worst=max(worst,float((got-want).norm()/want.norm()))
        now=ours.keys_SKTH.clone(); now[:,:,600]=was[:,:,600]; assert torch.equal(now.view(torch.int16),was.view(torch.int16))
    print("worst relative logits error %.2e"%worst, "bit-equal, no other KV written", flush=True)
    random.seed(0); total=0; a=time.time()
    loops=TokenLoops(bb,hop,frozenset())
    while total<10000:
        p=tuple(random.randrange(24) for _ in range(random.randint(0,30))); vis=visits_of(LayerProgram(p,24),"sequence")
        cc=bb.new_cache(max([v.slot for v in vis],default=0)+1,1200)
        cc.keys_SKTH.normal_(); cc.values_SKTH.normal_()
        start=random.randint(0,900)
        loop=loops.start(Sampling(temperature=1.0,seed=total), torch.randn(c.vocab_size,device=dev), start, vis, cc)
        loop.sample(None)
        for _ in range(200): loop.step(); loop.sample(None); loop.take()
        loop.take(); total+=200
    hop.check(); print("tokens",total,"without a hang, s", time.time()-a)

from bench import *
old = sys.argv[1]=="old"
print(torch.cuda.get_device_name(), "copy GB/s %.0f"%copy_bw(), "SMs", SM)
if old:
    build([("o",base,[]),("t",replace(base,trace=512),[])])
    s=make("o",base); print("OLD 24@512 %.1f 12@512 %.1f 0 %.1f 24@3800 %.1f"%(t(s),t(s,V12),t(s,V0),t(s,V24,3800)))
    trace(make("t",replace(base,trace=512)),512,"old",8)
    sys.exit()
B4=("BATCH = 2;","BATCH = 4;")
D1=("DEPTH = 2;","DEPTH = 1;")
jobs={}
for f in (2,3,4,6): jobs[f"f{f}"]=(replace(base,in_flight=f),[])
for cp in (2,4): jobs[f"f3c{cp}"]=(replace(base,in_flight=3,copies=cp),[])
jobs["f3e"]=(replace(base,in_flight=3,evict_first=1),[])
jobs["f3c4e"]=(replace(base,in_flight=3,copies=4,evict_first=1),[])
jobs["f3b4"]=(replace(base,in_flight=3),[B4])
jobs["f3b4d1"]=(replace(base,in_flight=3),[B4,D1])
jobs["f3d1"]=(replace(base,in_flight=3),[D1])
jobs["tr"]=(replace(base,in_flight=3,trace=512),[])
jobs["tr4"]=(replace(base,in_flight=3,copies=4,trace=512),[])
build([(n,l,e) for n,(l,e) in jobs.items()])
print("built", time.time()-T0)
S={}
for n,(l,e) in jobs.items():
    if n.startswith("tr"): continue
    s=S[n]=make(n,l)
    r=[]
    for sp in (1,2,4,8): s.splits={1<<30:sp}; r.append("%.1f"%t(s,reps=3))
    for sp in (4,8,16): s.splits={1<<30:sp}; r.append("%.1f"%t(s,V24,3800,reps=3))
    s.splits={1<<30:4}; s.delay=(0,)*6; r.append("nodelay %.1f"%t(s,reps=3)); 
    print(f"{n:8s} 512: splits 1 2 4 8; 3800: 4 8 16:", *r, flush=True)
for n in ("tr","tr4"):
    s=make(n,jobs[n][0])
    for sp in (2,4):
        s.splits={1<<30:sp}; trace(s,512,n+f" splits {sp}",12)
    s.splits={1<<30:16}; 
    s.delay=(0,)*6; s.splits={1<<30:2}; trace(s,512,n+" nodelay splits 2",12)
best=min(S,key=lambda n: (setattr(S[n],"splits",{1<<30:2}), t(S[n]))[1])
s=S[best]; print("best",best,t(s))
d=list(s.delay)
for rnd in range(2):
  for ph in range(6):
    res={}
    for v in ((0,200,400,600,900,1200,1600,2000,2500) if ph<5 else (0,50,100,200)):
        s.delay=tuple(d[:ph]+[v]+d[ph+1:]); res[v]=t(s,reps=3)
    d[ph]=min(res,key=res.get); print("delay",ph,{k:round(v,1) for k,v in res.items()},flush=True)
s.delay=tuple(d); print("delays",d)
for sp in (1,2,4): s.splits={1<<30:sp}; print(best,"splits",sp,"24@512 %.1f 12@512 %.1f 0 %.1f"%(t(s),t(s,V12),t(s,V0)))
for sp in (4,8,16): s.splits={1<<30:sp}; print(best,"splits",sp,"24@3800 %.1f"%t(s,V24,3800))
w=BackboneWeights(*(getattr(bb.weights,n).float() for n in BackboneWeights.__slots__))
ref=Backbone(c,w)
with torch.inference_mode():
    for vis in (V24,V12):
        ex,ours=ref.new_cache(24,640),bb.new_cache(24,640)
        ref.forward(torch.arange(600,device=dev)*7%5000,0,V24,ex)
        for a,b in ((ex.keys_SKTH,ours.keys_SKTH),(ex.values_SKTH,ours.values_SKTH)): b.copy_(a); a.copy_(b)
        exp=ref.logits(ref.forward(torch.tensor([77],device=dev),600,vis,ex)[-1:])[0]
        s.splits={1<<30:2}
        got=s.step([77],600,vis,ours).clone()
        print("error", float((got-exp).norm()/exp.norm()))

use subrosa_train::*;

struct O(std::time::Instant, usize);
impl Observer for O {
 fn step(&mut self, n: usize, l: f64, a: f64) { self.1 += n; if self.1 % 6400 < n { eprintln!("{} loss {l:.3} acc {a:.3}  {:.0} img/s", self.1, self.1 as f64/self.0.elapsed().as_secs_f64()); } }
 fn end(&mut self, e: &Epoch) { println!("{e:?}"); }
}
fn main() {
 let a: Vec<String> = std::env::args().collect();
 let mut data = cifar("/tmp/cifar10").unwrap(); if let Some(n)=a.get(5) { let n: usize = n.parse().unwrap(); data.train.labels.truncate(n); data.validation.labels.truncate(500); }
 let r = Recipe { architecture: Architecture::KerasCnn, activation: a[1].parse().unwrap(), last_activation: None, pooling: if a[2]=="max" {Pooling::Max} else {Pooling::Mean}, batch_norm: true, dropout: a[3].parse().unwrap(), seed: 1 };
 let m = build(&r, data.shape, &data.mean, &data.deviation, 10).unwrap();
 let s = Schedule { epochs: a[4].parse().unwrap(), augmentation: Augmentation{flip:true,shift:3}, ..Default::default() };
 go(&m,&data,&s,&mut O(std::time::Instant::now(),0)).unwrap();
}

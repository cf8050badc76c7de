//! The tensors that [`run`](super::run) hands to a kernel: one, an array, a list, or a tuple of these. A tensor that may
//! be absent is an `Option` here and in the bodies.

use super::Tensor;
use crate::engine::device::cuda::{In, Out};

/// What a kernel reads.
pub trait Inputs {
    /// The same tensors as slices.
    type Cpu;
    /// The same tensors as views of a device's memory.
    type Cuda;

    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor));

    fn cpu(&self) -> Self::Cpu;

    fn cuda(&self) -> Self::Cuda;
}

/// What a kernel writes. `'a` is the time of one call; the second parameter bounds it by what is borrowed.
pub trait Outputs<'a, Bound = &'a Self> {
    type Cpu;
    type Cuda;

    fn each(&'a self, f: &mut dyn FnMut(&'a Tensor));

    fn cpu(&'a mut self) -> Self::Cpu;

    fn cuda(&'a mut self) -> Self::Cuda;
}

impl<'t> Inputs for &'t Tensor {
    type Cpu = &'t [f32];
    type Cuda = In;

    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        f(self);
    }

    fn cpu(&self) -> &'t [f32] {
        self.as_slice()
    }

    fn cuda(&self) -> In {
        self.as_in()
    }
}

impl<'a> Outputs<'a> for &mut Tensor {
    type Cpu = &'a mut [f32];
    type Cuda = Out;

    fn each(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        f(self);
    }

    fn cpu(&'a mut self) -> &'a mut [f32] {
        self.as_mut_slice()
    }

    fn cuda(&'a mut self) -> Out {
        self.as_out()
    }
}

impl Inputs for () {
    type Cpu = ();
    type Cuda = ();

    fn each<'a>(&'a self, _: &mut dyn FnMut(&'a Tensor)) {}

    fn cpu(&self) {}

    fn cuda(&self) {}
}

impl<S: Inputs> Inputs for Option<S> {
    type Cpu = Option<S::Cpu>;
    type Cuda = Option<S::Cuda>;

    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.iter().for_each(|slot| slot.each(f));
    }

    fn cpu(&self) -> Self::Cpu {
        self.as_ref().map(S::cpu)
    }

    fn cuda(&self) -> Self::Cuda {
        self.as_ref().map(S::cuda)
    }
}

impl<'a, S: Outputs<'a>> Outputs<'a> for Option<S> {
    type Cpu = Option<S::Cpu>;
    type Cuda = Option<S::Cuda>;

    fn each(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.iter().for_each(|slot| slot.each(f));
    }

    fn cpu(&'a mut self) -> Self::Cpu {
        self.as_mut().map(S::cpu)
    }

    fn cuda(&'a mut self) -> Self::Cuda {
        self.as_mut().map(S::cuda)
    }
}

impl<S: Inputs, const N: usize> Inputs for [S; N] {
    type Cpu = [S::Cpu; N];
    type Cuda = [S::Cuda; N];

    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.iter().for_each(|slot| slot.each(f));
    }

    fn cpu(&self) -> Self::Cpu {
        self.each_ref().map(S::cpu)
    }

    fn cuda(&self) -> Self::Cuda {
        self.each_ref().map(S::cuda)
    }
}

impl<'a, S: Outputs<'a>, const N: usize> Outputs<'a> for [S; N] {
    type Cpu = [S::Cpu; N];
    type Cuda = [S::Cuda; N];

    fn each(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.iter().for_each(|slot| slot.each(f));
    }

    fn cpu(&'a mut self) -> Self::Cpu {
        self.each_mut().map(S::cpu)
    }

    fn cuda(&'a mut self) -> Self::Cuda {
        self.each_mut().map(S::cuda)
    }
}

impl<S: Inputs> Inputs for &[S] {
    type Cpu = Vec<S::Cpu>;
    type Cuda = Vec<S::Cuda>;

    fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.iter().for_each(|slot| slot.each(f));
    }

    fn cpu(&self) -> Self::Cpu {
        self.iter().map(S::cpu).collect()
    }

    fn cuda(&self) -> Self::Cuda {
        self.iter().map(S::cuda).collect()
    }
}

impl<'a, S: Outputs<'a>> Outputs<'a> for Vec<S> {
    type Cpu = Vec<S::Cpu>;
    type Cuda = Vec<S::Cuda>;

    fn each(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
        self.iter().for_each(|slot| slot.each(f));
    }

    fn cpu(&'a mut self) -> Self::Cpu {
        self.iter_mut().map(S::cpu).collect()
    }

    fn cuda(&'a mut self) -> Self::Cuda {
        self.iter_mut().map(S::cuda).collect()
    }
}

macro_rules! tuples {
    ($(($($part:ident)*))*) => {$(
        #[allow(non_snake_case)]
        impl<$($part: Inputs),*> Inputs for ($($part,)*) {
            type Cpu = ($($part::Cpu,)*);
            type Cuda = ($($part::Cuda,)*);

            fn each<'a>(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
                let ($($part,)*) = self;
                $($part.each(f);)*
            }

            fn cpu(&self) -> Self::Cpu {
                let ($($part,)*) = self;
                ($($part.cpu(),)*)
            }

            fn cuda(&self) -> Self::Cuda {
                let ($($part,)*) = self;
                ($($part.cuda(),)*)
            }
        }

        #[allow(non_snake_case)]
        impl<'a, $($part: Outputs<'a>),*> Outputs<'a> for ($($part,)*) {
            type Cpu = ($($part::Cpu,)*);
            type Cuda = ($($part::Cuda,)*);

            fn each(&'a self, f: &mut dyn FnMut(&'a Tensor)) {
                let ($($part,)*) = self;
                $($part.each(f);)*
            }

            fn cpu(&'a mut self) -> Self::Cpu {
                let ($($part,)*) = self;
                ($($part.cpu(),)*)
            }

            fn cuda(&'a mut self) -> Self::Cuda {
                let ($($part,)*) = self;
                ($($part.cuda(),)*)
            }
        }
    )*};
}

tuples! { (A B) (A B C) (A B C D) (A B C D E) }

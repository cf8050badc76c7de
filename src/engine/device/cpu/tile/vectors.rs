//! The tile in vector instructions: one text for every width.

/// A microkernel of `$rows` rows by up to so many vectors of `$lanes` lanes, in the processor's instructions `$zero` to
/// `$rectified`. `$detected` says whether the processor has the features `$features`, which a value proves.
macro_rules! vector_tile {
    (
        $(#[$about:meta])*
        $name:ident in $module:ident: $rows:literal rows, $($vectors:literal)|+ vectors of $lanes:literal lanes, features $features:literal
        if $detected:expr;
        $vector:ident, $zero:ident, $load:ident, $store:ident, $splat:ident, $add:ident, $sub:ident, $mul:ident, $div:ident,
        $fmadd:ident, $min:ident, $max:ident, $power:ident, $rectified:ident, $load_first:ident, $store_first:ident
    ) => {
        $(#[$about])*
        #[derive(Clone, Copy)]
        pub struct $name(());

        impl $name {
            pub fn detect() -> Option<$name> {
                static FOUND: LazyLock<bool> = LazyLock::new(|| $detected);
                FOUND.then_some($name(()))
            }
        }

        impl Microkernel for $name {
            const ROWS: usize = $rows;
            const LANES: usize = $lanes;
            const VECTORS: usize = [$($vectors),+].len();
            type Vector = $vector;

            fn vectorized(self, loops: impl Loops) {
                // SAFETY: `self` proves the features.
                unsafe { $module::vectorized(self, loops) }
            }

            // SAFETY, of all that follow: `self` proves the features.

            #[inline(always)]
            fn splat(self, value: f32) -> $vector {
                unsafe { $splat(value) }
            }

            #[inline(always)]
            fn load(self, from: &[f32]) -> $vector {
                match from.len() >= $lanes {
                    true => unsafe { $load(from.as_ptr()) },
                    false => unsafe { $load_first(from.as_ptr(), from.len()) },
                }
            }

            #[inline(always)]
            fn store(self, values: $vector, to: &mut [f32]) {
                match to.len() >= $lanes {
                    true => unsafe { $store(to.as_mut_ptr(), values) },
                    false => unsafe { $store_first(to.as_mut_ptr(), to.len(), values) },
                }
            }

            #[inline(always)]
            fn add(self, a: $vector, b: $vector) -> $vector {
                unsafe { $add(a, b) }
            }

            #[inline(always)]
            fn sub(self, a: $vector, b: $vector) -> $vector {
                unsafe { $sub(a, b) }
            }

            #[inline(always)]
            fn mul(self, a: $vector, b: $vector) -> $vector {
                unsafe { $mul(a, b) }
            }

            #[inline(always)]
            fn mul_add(self, a: $vector, b: $vector, c: $vector) -> $vector {
                unsafe { $fmadd(a, b, c) }
            }

            #[inline(always)]
            fn div(self, a: $vector, b: $vector) -> $vector {
                unsafe { $div(a, b) }
            }

            #[inline(always)]
            fn clamp(self, x: $vector, least: f32, most: f32) -> $vector {
                unsafe { $min($splat(most), $max($splat(least), x)) }
            }

            #[inline(always)]
            fn power_of_two(self, shifted: $vector) -> $vector {
                unsafe { $power(shifted) }
            }

            #[inline(always)]
            fn rectified(self, z: $vector, slope: $vector, ceiling: $vector) -> $vector {
                unsafe { $rectified(z, slope, ceiling) }
            }

            fn multiply(self, size: [usize; 3], sums: Product, a: Matrix, b: Strided) {
                check_product::<$name>(size, &sums, a, b);
                // SAFETY: `self` proves the features; the check keeps every address inside its slice.
                unsafe {
                    match size[2].div_ceil($lanes) {
                        $($vectors => $module::multiply::<$vectors>(size, sums, a, b),)+
                        _ => (),
                    }
                }
            }
        }

        mod $module {
            use super::*;

            /// # Safety
            /// The features are there, and all operands lie in their slices.
            #[target_feature(enable = $features)]
            pub unsafe fn multiply<const V: usize>([rows, depth, columns]: [usize; 3], sums: Product, a: Matrix, b: Strided) {
                /// Rows of a tile that has half the vectors, or fewer.
                const TWICE: usize = 2 * $rows;
                let Product { data, pitch, add } = sums;
                let (mut to, mut from, mut left) = (data.as_mut_ptr(), a.data.as_ptr(), rows);
                macro_rules! blocks_of {
                    ($count:expr) => {
                        while left >= $count {
                            // SAFETY: the caller's; so many rows are left.
                            unsafe {
                                block::<V, { $count }>([depth, columns], to, pitch, add, from, [a.row, a.element], b);
                            }
                            to = to.wrapping_add($count * pitch);
                            from = from.wrapping_add($count * a.row);
                            left -= $count;
                        }
                    };
                }
                if 2 * V <= $name::VECTORS {
                    blocks_of!(TWICE);
                }
                blocks_of!($rows);
                blocks_of!(4);
                blocks_of!(3);
                blocks_of!(2);
                blocks_of!(1);
            }

            /// # Safety
            /// The features are there, and all operands lie in their slices.
            #[target_feature(enable = $features)]
            unsafe fn block<const V: usize, const R: usize>(
                [depth, columns]: [usize; 2],
                to: *mut f32,
                pitch: usize,
                add: bool,
                mut from: *const f32,
                [row, element]: [usize; 2],
                b: Strided,
            ) {
                let mut columns_at = b.data.as_ptr();
                // Only the last vector may lack lanes.
                let last = columns - (V - 1) * $lanes;
                // SAFETY: see above. Pointers beyond the last element are not read.
                unsafe {
                    let mut sums = [[$zero(); V]; R];
                    if add {
                        for (i, sums) in sums.iter_mut().enumerate() {
                            for (v, sum) in sums.iter_mut().enumerate() {
                                let from = to.add(i * pitch + v * $lanes);
                                let whole = v + 1 < V || last == $lanes;
                                *sum = if whole { $load(from) } else { $load_first(from, last) };
                            }
                        }
                    }
                    for _ in 0..depth {
                        let mut columns = [$zero(); V];
                        for (v, column) in columns.iter_mut().enumerate() {
                            *column = $load(columns_at.add(v * $lanes));
                        }
                        columns_at = columns_at.wrapping_add(b.stride);
                        for (i, sums) in sums.iter_mut().enumerate() {
                            let x = $splat(*from.add(i * row));
                            for (sum, column) in sums.iter_mut().zip(columns) {
                                *sum = $fmadd(x, column, *sum);
                            }
                        }
                        from = from.wrapping_add(element);
                    }
                    for (i, sums) in sums.iter().enumerate() {
                        for (v, sum) in sums.iter().enumerate() {
                            let to = to.add(i * pitch + v * $lanes);
                            match v + 1 < V || last == $lanes {
                                true => $store(to, *sum),
                                false => $store_first(to, last, *sum),
                            }
                        }
                    }
                }
            }

            /// # Safety
            /// The features are there.
            #[target_feature(enable = $features)]
            pub unsafe fn vectorized(kernel: $name, loops: impl Loops) {
                loops.run(kernel);
            }
        }
    };
}

pub(super) use vector_tile;

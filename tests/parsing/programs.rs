//! Pickles that no Python wrote: programs of its instructions at random, most of which find what they need on the stack.

use rand::RngExt;
use rand::seq::IndexedRandom;

use super::Random;

/// Every instruction.
pub const CODES: &[u8] =
    b".(012N\x88\x89KMJGILFSVXTUBC\x8a\x8b\x8c\x8d\x8e\x96])}\x8fltd\x91\x85\x86\x87aesu\x90cio\x93RbPQ\x81\x92\
      \x82\x83\x84ghjpqr\x94\x80\x95\x97\x98";

/// What stands in pickles of lists, arrays and tensors.
pub const TOKENS: [&[u8]; 40] = [
    b"cos\nsystem\n",
    b"cbuiltins\neval\n",
    b"c__builtin__\nset\n",
    b"ccollections\nOrderedDict\n",
    b"ccollections\ndefaultdict\n",
    b"ccopy_reg\n_reconstructor\n",
    b"c_codecs\nencode\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy._core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n",
    b"cpathlib\nPosixPath\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch\nBoolStorage\n",
    b"ctorch\nSize\n",
    b"cnumpy\ndtype\nX\x02\0\0\0i1\x89\x88\x87R",
    b"cnumpy\ndtype\nX\x02\0\0\0U3\x89\x88\x87R(K\x03X\x01\0\0\0<NNNK\x0cK\x04K\x08tb",
    b"cnumpy.core.multiarray\n_reconstruct\n(NK\0\x85NtR",
    b"(K\x01K\x04\x85cnumpy\ndtype\nX\x02\0\0\0u1\x89\x88\x87R\x89C\x04abcdtb",
    b"cnumpy._core.numeric\n_frombuffer\n(C\x04abcdcnumpy\ndtype\nX\x02\0\0\0u2\x89\x88\x87RK\x02\x85X\x01\0\0\0CtR",
    b"(X\x07\0\0\0storagectorch\nFloatStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04tQ",
    b"(X\x07\0\0\0storagectorch\nHalfStorage\nX\x01\0\0\x000X\x03\0\0\0cpuK\x04(X\x01\0\0\0aK\x01K\x02ttQ",
    b"K\0(K\x02K\x02t(K\x02K\x01t\x89NtR",
    b"]q\0h\0a",
    b"}q\0h\0h\0s",
    b"\x95\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x8b\xff\xff\xff\x7f",
    b"X\xff\xff\xff\xff",
    b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\x96\0\0\0\0\0\0\0\x10",
    b"I99999999999999999999\n",
    b"I01\n",
    b"L-7L\n",
    b"F1e400\n",
    b"S'a\\x4'\n",
    b"V\\ud800\\u0041\n",
    b"P0\n",
    b"h\xff",
];

/// A program of up to some hundred instructions.
pub fn program(random: &mut Random) -> Vec<u8> {
    let mut program = Program { code: Vec::new(), depth: 0, marks: Vec::new(), stored: 0 };
    match random.random_range(0..4) {
        0 => {}
        1 => program.code.extend([0x80, random.random_range(0..8)]),
        2 => program.code.extend(b"\x80\x04\x95\x40\0\0\0\0\0\0\0"),
        _ => program.code.extend([0x80, 2]),
    }
    for _ in 0..random.random_range(1..120) {
        let from = program.code.len();
        program.step(random);
        if random.random_bool(0.02) {
            let piece = program.code[from..].to_vec();
            program.code.extend(piece.repeat(random.random_range(1..400)));
        }
    }
    program.code.push(b'.');
    program.code
}

struct Program {
    code: Vec<u8>,
    /// Values on the stack, at least about so many.
    depth: usize,
    marks: Vec<usize>,
    stored: u8,
}

impl Program {
    fn step(&mut self, random: &mut Random) {
        match random.random_range(0..20) {
            0..5 => self.scalar(random),
            5..7 => self.put(&[*b"])}\x8f".choose(random).unwrap()], 0, 1),
            7..9 => self.put(TOKENS.choose(random).unwrap(), 0, 1),
            9 => {
                self.marks.push(self.depth);
                self.put(b"(", 0, 0);
            }
            10 | 11 => {
                let code = *b"ltde u\x91\x901oi".choose(random).unwrap();
                if let Some(mark) = self.marks.pop() {
                    self.depth = mark;
                    self.put(&[code], 0, usize::from(b"ltd\x91o".contains(&code)));
                    if code == b'i' {
                        self.put(b"collections\ndeque\n", 0, 1);
                    }
                }
            }
            12 => {
                let (code, takes) =
                    *[(0x85, 1), (0x86, 2), (0x87, 3), (b'a', 1), (b's', 2)].choose(random).unwrap();
                self.put(&[code], takes, usize::from(code > 0x80));
            }
            13 | 14 => {
                let (code, takes) = *[(b'R', 2), (0x81, 2), (0x92, 3), (b'b', 1), (0x93, 2), (b'Q', 1)]
                    .choose(random)
                    .unwrap();
                self.put(&[code], takes, 1);
            }
            15 | 16 => self.memo(random),
            17 => self.put(&[*b"012".choose(random).unwrap()], 0, 0),
            18 => {
                let times = random.random_range(1..2000);
                let nest = *[&b"("[..], b"]", b"]q\0h\0a", b"(l", b")\x85"].choose(random).unwrap();
                self.code.extend(nest.repeat(times));
                if random.random() {
                    self.code.extend([*b"atlb".choose(random).unwrap()].repeat(times));
                }
                self.depth += 1;
            }
            _ => {
                let code = *CODES.choose(random).unwrap();
                if code != b'.' {
                    self.put(&[code], 0, 1);
                }
            }
        }
    }

    /// Writes code that takes some values and leaves some, mostly only where there are so many.
    fn put(&mut self, code: &[u8], takes: usize, leaves: usize) {
        if self.depth < takes {
            return;
        }
        self.depth += leaves;
        self.depth -= takes.min(self.depth);
        self.code.extend(code);
    }

    fn scalar(&mut self, random: &mut Random) {
        let bytes: Vec<u8> = (0..random.random_range(0..12)).map(|_| random.random_range(32..127)).collect();
        let length = bytes.len() as u8;
        let number: u64 = if random.random() { random.random_range(0..10) } else { random.random() };
        let little = number.to_le_bytes();
        let mut code = match random.random_range(0..12) {
            0 => vec![*b"N\x88\x89".choose(random).unwrap()],
            1 => vec![b'K', little[0] % 16],
            2 => [b"M", &little[..2]].concat(),
            3 => [b"J", &little[..4]].concat(),
            4 => [b"G", &little[..]].concat(),
            5 => [&[0x8a, length], &bytes[..]].concat(),
            6 => format!("I{}\n", number as i64).into_bytes(),
            7 => [b"V", &bytes[..], b"\n"].concat(),
            8 => [b"S'", &bytes[..], b"'\n"].concat(),
            9 => [&[*b"\x8cUC".choose(random).unwrap(), length], &bytes[..]].concat(),
            10 => [&[*b"XTB".choose(random).unwrap(), length, 0, 0, 0], &bytes[..]].concat(),
            _ => [&[*b"\x8d\x8e\x96".choose(random).unwrap(), length, 0, 0, 0, 0, 0, 0, 0], &bytes[..]]
                .concat(),
        };
        if random.random_bool(0.01) && code.len() > 1 {
            code[1] = 0xff;
        }
        self.put(&code, 0, 1);
    }

    fn memo(&mut self, random: &mut Random) {
        let slot = if self.stored > 0 { random.random_range(0..self.stored) } else { 0 };
        match random.random_range(0..8) {
            0 if self.depth > 0 => self.put(format!("p{slot}\n").as_bytes(), 0, 0),
            1 if self.depth > 0 => self.put(&[b'r', slot, 0, 0, 0], 0, 0),
            2 if self.depth > 0 => self.put(&[0x94], 0, 0),
            3 | 4 if self.depth > 0 => {
                self.put(&[b'q', self.stored], 0, 0);
                self.stored = self.stored.saturating_add(1);
            }
            5 => self.put(format!("g{slot}\n").as_bytes(), 0, 1),
            6 => self.put(&[b'j', slot, 0, 0, 0], 0, 1),
            _ => self.put(&[b'h', slot], 0, 1),
        }
    }
}

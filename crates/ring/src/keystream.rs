//! ChaCha20's keystream as a random generator.

use chacha20::ChaCha20Legacy;
use chacha20::cipher::{KeyIvInit, StreamCipher};
use rand_core::{Infallible, TryCryptoRng, TryRng};
use zeroize::Zeroize;

/// Bytes made at a time for small requests: sixteen blocks, which the widest kernel makes side by side.
const BUFFER: usize = 1024;

/// A cryptographic generator: the keystream of ChaCha20 with 20 rounds, a 64-bit block counter and a 64-bit stream number, from its beginning.
/// The bytes are those of `rand_chacha`'s `ChaCha20Rng` with the same seed and stream, asked for in one piece.
///
/// It wipes its state on drop. The cipher's own code makes the stream, rather than the crate's generator, since that makes four blocks at a time and
/// no more.
pub struct Keystream {
    cipher: ChaCha20Legacy,
    buffer: [u8; BUFFER],
    /// Bytes of the buffer that were given out.
    used: usize,
}

impl Keystream {
    /// The stream `stream` of the key `seed`.
    pub fn new(seed: &[u8; 32], stream: u64) -> Self {
        let cipher = ChaCha20Legacy::new(seed.into(), &stream.to_le_bytes().into());
        Self { cipher, buffer: [0; BUFFER], used: BUFFER }
    }

    /// The next bytes.
    pub fn fill(&mut self, out: &mut [u8]) {
        let (buffered, rest) = out.split_at_mut(out.len().min(BUFFER - self.used));
        self.give(buffered);
        let (whole, rest) = rest.split_at_mut(rest.len() / BUFFER * BUFFER);
        whole.fill(0);
        self.cipher.apply_keystream(whole);
        if !rest.is_empty() {
            self.buffer.fill(0);
            self.cipher.apply_keystream(&mut self.buffer);
            self.used = 0;
            self.give(rest);
        }
    }

    /// Gives out bytes of the buffer, which has as many.
    fn give(&mut self, out: &mut [u8]) {
        let given = &mut self.buffer[self.used..self.used + out.len()];
        out.copy_from_slice(given);
        given.zeroize();
        self.used += out.len();
    }
}

impl Drop for Keystream {
    fn drop(&mut self) {
        // The cipher wipes itself.
        self.buffer.zeroize();
    }
}

impl TryRng for Keystream {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.fill(&mut bytes);
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        Ok(u64::from_le_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.fill(bytes);
        Ok(())
    }
}

impl TryCryptoRng for Keystream {}

#[cfg(test)]
mod tests {
    use super::*;
    use chacha20::ChaCha20Rng;
    use rand_core::{Rng, SeedableRng};

    #[test]
    fn the_stream_is_that_of_the_common_generator_however_it_is_asked_for() {
        for (stream, lens) in
            [(0, &[3, 1, 8, 4096, 0, 1023, 1025, 16, 7][..]), (u64::MAX, &[1024, 1, 5000, 64]), (1 << 40, &[70_000, 9])]
        {
            let seed = std::array::from_fn(|i| i as u8 * 7 + stream as u8);
            let mut common = ChaCha20Rng::from_seed(seed);
            common.set_stream(stream);
            let mut expected = vec![0; lens.iter().sum::<usize>() + 12];
            common.fill_bytes(&mut expected);
            let mut rest = expected.as_slice();
            let mut found = Keystream::new(&seed, stream);
            for &len in lens {
                let mut bytes = vec![1; len];
                found.fill(&mut bytes);
                assert_eq!(bytes, rest[..len], "{len} bytes of stream {stream}");
                rest = &rest[len..];
            }
            assert_eq!([found.next_u64().to_le_bytes().as_slice(), &found.next_u32().to_le_bytes()].concat(), rest);
        }
    }
}

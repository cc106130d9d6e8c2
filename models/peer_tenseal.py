#!/usr/bin/env python3
"""Times TenSEAL (PyPI `tenseal`, Apache-2.0, Microsoft SEAL inside) on this machine, as the peer `subrosa bench --peer tenseal` shows.

    python3 -m venv venv && venv/bin/pip install tenseal==0.3.18
    venv/bin/python models/peer_tenseal.py [--repetitions 30] [--log-n 14 15]

CKKS at N = 2^14 with coefficient moduli of 60, 5 x 40 and 60 bits (the last is SEAL's key-switching prime), scale 2^40, one thread;
with `--log-n 15` at N = 2^15 as well, with 60, 11 x 45 and 60 bits, scale 2^45: these figures are under "degrees", by ring degree.
BFV, SEAL's exact integers, with the same coefficient moduli and a plaintext modulus of 22 bits: under "bfv" of each degree.
Prints one JSON object: medians in milliseconds, the least times (nearer the truth on a busy machine), and the largest error of
each result against plain arithmetic. It exits with 1 and {"error": ...} when TenSEAL is missing or a result is wrong.

The operations are SEAL's own, through TenSEAL's binding `tenseal.sealapi`; `ckks_vector_*` are TenSEAL's own vector type, which is
what its users write. The layer: 10 x 512 encrypted weights and 10 encrypted biases in one ciphertext each, a plain input of 512,
row sums by 9 rotations; encrypted weights by a plain input, as our own layer does.
"""
import argparse
import json
import os
import platform
import random
import statistics
import sys
import time

# One thread, also for what the libraries start by themselves; has to be set before they load.
os.environ["OMP_NUM_THREADS"] = "1"

try:
    import tenseal
    import tenseal.sealapi as seal
except ImportError as reason:
    help_text = f"cannot load tenseal ({reason}); install it with: pip install tenseal==0.3.18"
    print(json.dumps({"peer": "tenseal", "error": help_text}))
    sys.exit(1)

DEGREE = 1 << 14
SLOTS = DEGREE // 2
# log2 N: (bits of the coefficient moduli, log2 of the scale). The first is that of the layer and of `ckks_vector_*`.
CHAINS = {14: ([60, 40, 40, 40, 40, 40, 60], 40), 15: ([60] + [45] * 11 + [60], 45)}
BITS = CHAINS[14][0]
SCALE = 2.0 ** CHAINS[14][1]
PLAIN_BITS = 22  # of the plaintext modulus of BFV
INPUTS, OUTPUTS = 512, 10
WRONG = 1e-3  # an error above this is a defect of the measurement, not noise


def times_ms(work, repetitions):
    """(median, least) wall-clock milliseconds."""
    for _ in range(2):
        work()
    times = []
    for _ in range(repetitions):
        start = time.perf_counter()
        work()
        times.append((time.perf_counter() - start) * 1e3)
    return round(statistics.median(times), 4), round(min(times), 4)


class Keys:
    """SEAL's objects for one set of keys, and what both schemes do alike."""

    def __init__(self, scheme_type, log_n, rotations):
        degree = 1 << log_n
        parameters = seal.EncryptionParameters(scheme_type)
        parameters.set_poly_modulus_degree(degree)
        parameters.set_coeff_modulus(seal.CoeffModulus.Create(degree, CHAINS[log_n][0]))
        if scheme_type == seal.SCHEME_TYPE.BFV:
            parameters.set_plain_modulus(seal.PlainModulus.Batching(degree, PLAIN_BITS))
        self.plain_modulus = parameters.plain_modulus().value()
        self.context = seal.SEALContext(parameters, True, seal.SEC_LEVEL_TYPE.TC128)
        keys = seal.KeyGenerator(self.context)
        self.public, self.relin, self.galois = seal.PublicKey(), seal.RelinKeys(), seal.GaloisKeys()
        keys.create_public_key(self.public)
        keys.create_relin_keys(self.relin)
        # Galois elements 3^step mod 2N.
        keys.create_galois_keys([pow(3, step, 2 * degree) for step in rotations], self.galois)
        self.encryptor = seal.Encryptor(self.context, self.public)
        self.decryptor = seal.Decryptor(self.context, keys.secret_key())
        self.evaluator = seal.Evaluator(self.context)

    def encrypt(self, plain):
        cipher = seal.Ciphertext()
        self.encryptor.encrypt(plain, cipher)
        return cipher


class Integers(Keys):
    """BFV: vectors of N integers modulo t, in two rows."""

    def __init__(self, log_n, rotations):
        super().__init__(seal.SCHEME_TYPE.BFV, log_n, rotations)
        self.encoder = seal.BatchEncoder(self.context)

    def encode(self, values):
        plain = seal.Plaintext()
        self.encoder.encode(values, plain)
        return plain

    def decrypt(self, cipher):
        plain = seal.Plaintext()
        self.decryptor.decrypt(cipher, plain)
        return self.encoder.decode_int64(plain)

    def multiply(self, a, b):
        out = seal.Ciphertext()
        self.evaluator.multiply(a, b, out)
        self.evaluator.relinearize_inplace(out, self.relin)
        return out

    def multiply_plain(self, a, plain):
        out = seal.Ciphertext()
        self.evaluator.multiply_plain(a, plain, out)
        return out

    def rotate(self, a, step):
        out = seal.Ciphertext()
        self.evaluator.rotate_rows(a, step, self.galois, out)
        return out


class Scheme(Keys):
    """CKKS."""

    def __init__(self, log_n, rotations):
        super().__init__(seal.SCHEME_TYPE.CKKS, log_n, rotations)
        self.scale = 2.0 ** CHAINS[log_n][1]
        self.encoder = seal.CKKSEncoder(self.context)

    def encode(self, values):
        plain = seal.Plaintext()
        self.encoder.encode(values, self.scale, plain)
        return plain

    def decrypt(self, cipher):
        plain = seal.Plaintext()
        self.decryptor.decrypt(cipher, plain)
        return self.encoder.decode_double(plain)

    def multiply(self, a, b):
        out = seal.Ciphertext()
        self.evaluator.multiply(a, b, out)
        self.evaluator.relinearize_inplace(out, self.relin)
        self.evaluator.rescale_to_next_inplace(out)
        return out

    def multiply_plain(self, a, plain):
        out = seal.Ciphertext()
        self.evaluator.multiply_plain(a, plain, out)
        self.evaluator.rescale_to_next_inplace(out)
        return out

    def rotate(self, a, step):
        out = seal.Ciphertext()
        self.evaluator.rotate_vector(a, step, self.galois, out)
        return out

    def layer(self, weights, bias, x):
        """Row sums of weights * x, plus bias; row r's result is in slot 512 r."""
        total = self.multiply_plain(weights, self.encode(x * OUTPUTS))
        step = INPUTS // 2
        while step:
            self.evaluator.add_inplace(total, self.rotate(total, step))
            step //= 2
        lowered = seal.Ciphertext()
        self.evaluator.mod_switch_to_next(bias, lowered)
        # The scales differ by the rescaling prime's distance from the scale, far below the noise allowed for.
        lowered.scale = total.scale
        self.evaluator.add_inplace(total, lowered)
        return total


def distance(got, want):
    return max(abs(g - w) for g, w in zip(got, want))


def stop_if_wrong(errors):
    if max(errors.values()) > WRONG:
        print(json.dumps({"peer": "tenseal", "error": "a result is wrong", "largest_error": errors}))
        sys.exit(1)


def primitives(s, log_n, draw, repetitions):
    """(times, errors) of what every ring degree is timed for."""
    a = [draw.uniform(-1, 1) for _ in range(1 << (log_n - 1))]
    b = [draw.uniform(-1, 1) for _ in range(1 << (log_n - 1))]
    plain_b = s.encode(b)
    ct_a, ct_b = s.encrypt(s.encode(a)), s.encrypt(plain_b)
    errors = {
        "encrypt": distance(s.decrypt(ct_a), a),
        "ct_ct": distance(s.decrypt(s.multiply(ct_a, ct_b)), [p * q for p, q in zip(a, b)]),
        "rotate": distance(s.decrypt(s.rotate(ct_a, 1)), a[1:] + a[:1]),
    }
    stop_if_wrong(errors)
    rescaled = {"ct_pt_rescale": lambda: s.multiply_plain(ct_a, plain_b), "ct_ct_relin_rescale": lambda: s.multiply(ct_a, ct_b)}
    return times_of(s, a, plain_b, ct_a, rescaled, repetitions), errors


def times_of(s, a, plain_b, ct_a, products, repetitions):
    work = {
        "encode": lambda: s.encode(a),
        "encrypt_public_key": lambda: s.encrypt(plain_b),
        "encode_encrypt": lambda: s.encrypt(s.encode(a)),
        "decrypt_decode": lambda: s.decrypt(ct_a),
        **products,
        "rotate": lambda: s.rotate(ct_a, 1),
    }
    return {name: times_ms(one, repetitions) for name, one in work.items()}


def integer_primitives(s, log_n, draw, repetitions):
    """Times of BFV; every result is right, or the script ends."""
    degree, t = 1 << log_n, s.plain_modulus
    half = degree // 2
    a, b = ([draw.randrange(-(t // 2), t // 2 + 1) for _ in range(degree)] for _ in range(2))
    plain_b = s.encode(b)
    ct_a, ct_b = s.encrypt(s.encode(a)), s.encrypt(plain_b)
    checks = {
        "encrypt": (ct_a, a),
        "ct_pt": (s.multiply_plain(ct_a, plain_b), [p * q for p, q in zip(a, b)]),
        "ct_ct": (s.multiply(ct_a, ct_b), [p * q for p, q in zip(a, b)]),
        "rotate": (s.rotate(ct_a, 1), a[1:half] + a[:1] + a[half + 1 :] + a[half : half + 1]),
    }
    stop_if_wrong({name: max((g - w) % t for g, w in zip(s.decrypt(c), want)) for name, (c, want) in checks.items()})
    products = {"ct_pt": lambda: s.multiply_plain(ct_a, plain_b), "ct_ct_relin": lambda: s.multiply(ct_a, ct_b)}
    return times_of(s, a, plain_b, ct_a, products, repetitions)


def layer_and_vectors(s, draw, repetitions):
    """(times, errors) of the layer and of TenSEAL's own vectors, at N = 2^14."""
    a = [draw.uniform(-1, 1) for _ in range(SLOTS)]
    b = [draw.uniform(-1, 1) for _ in range(SLOTS)]
    x = [draw.uniform(-1, 1) for _ in range(INPUTS)]
    weights = [draw.uniform(-1, 1) / INPUTS**0.5 for _ in range(OUTPUTS * INPUTS)]
    bias = [draw.uniform(-1, 1) for _ in range(OUTPUTS)]
    spread_bias = [0.0] * SLOTS
    spread_bias[: OUTPUTS * INPUTS : INPUTS] = bias
    ct_weights, ct_bias = s.encrypt(s.encode(weights)), s.encrypt(s.encode(spread_bias))

    high = tenseal.context(tenseal.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=BITS, n_threads=1)
    high.global_scale = SCALE
    high_a, high_b = tenseal.ckks_vector(high, a), tenseal.ckks_vector(high, b)

    result = s.decrypt(s.layer(ct_weights, ct_bias, x))[: OUTPUTS * INPUTS : INPUTS]
    expected = [sum(w * v for w, v in zip(weights[r * INPUTS : (r + 1) * INPUTS], x)) + bias[r] for r in range(OUTPUTS)]
    errors = {"layer_512_10": distance(result, expected)}
    stop_if_wrong(errors)
    times = {
        "layer_512_10_encrypted_weights_plain_input": times_ms(lambda: s.layer(ct_weights, ct_bias, x), repetitions),
        "ckks_vector_encode_encrypt": times_ms(lambda: tenseal.ckks_vector(high, a), repetitions),
        "ckks_vector_ct_ct_relin_rescale": times_ms(lambda: high_a * high_b, repetitions),
    }
    return times, errors


def median_and_least(times):
    return {
        "median_ms": {name: pair[0] for name, pair in times.items()},
        "least_ms": {name: pair[1] for name, pair in times.items()},
    }


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repetitions", type=int, default=30)
    arguments.add_argument("--log-n", type=int, nargs="+", choices=sorted(CHAINS), default=[14])
    arguments = arguments.parse_args()
    repetitions = max(1, arguments.repetitions)

    draw = random.Random(1)
    degrees = {}
    for log_n in sorted(set(arguments.log_n)):
        start = time.perf_counter()
        # Rotations by 1, 2, 4 ... 256 add up the layer's rows.
        s = Scheme(log_n, [1 << i for i in range(INPUTS.bit_length() - 1)] if log_n == 14 else [1])
        keygen = (time.perf_counter() - start) * 1e3
        times, errors = primitives(s, log_n, draw, repetitions)
        if log_n == 14:
            more_times, more_errors = layer_and_vectors(s, draw, repetitions)
            times, errors = {**times, **more_times}, {**errors, **more_errors}
        degrees[1 << log_n] = {
            "coeff_modulus_bits": CHAINS[log_n][0],
            "scale_bits": CHAINS[log_n][1],
            "keygen_ms": round(keygen, 1),
            **median_and_least(times),
            "largest_error": errors,
            "bfv": median_and_least(integer_primitives(Integers(log_n, [1]), log_n, draw, repetitions)),
        }
    report = {
        "peer": "tenseal",
        "version": tenseal.__version__,
        "python": platform.python_version(),
        "threads": 1,
        "repetitions": repetitions,
        "degrees": degrees,
    }
    if DEGREE in degrees:
        # As reports were before there were degrees.
        report.update({"poly_modulus_degree": DEGREE, **degrees[DEGREE]})
    print(json.dumps(report))


if __name__ == "__main__":
    main()

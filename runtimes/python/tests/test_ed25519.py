"""Ed25519 against the RFC's vectors, against signatures made here by its definition, and against what must not hold."""
import hashlib
import unittest

from dormouse.runtime import ed25519
from dormouse.runtime.ed25519 import L, P, PublicKey, _add, _encode, _table, _BASE, ZERO

# RFC 8032, section 7.1: secret key, public key, message, signature.
VECTORS = [
    ("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
     "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a", "",
     "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b"),
    ("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
     "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c", "72",
     "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"),
    ("c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
     "fc51cd8e6218a1a38da47ed00230f0580816ed13ba3303ac5deb911548908025", "af82",
     "6291d657deec24024827e69c3abe01a30ce548a284743a445e3680d7db5ac3ac18ff9b538d16f290ae67f760984dc6594a7c15e9716ed28dc027beceea1ec40a"),
]


def _times(n: int, table) -> tuple:
    total = ZERO
    for i, row in enumerate(table):
        total = _add(total, row[n >> 4 * i & 15])
    return total


def sign(seed: bytes, message: bytes) -> tuple[bytes, bytes]:
    """Public key and signature, by section 5.1.6."""
    h = hashlib.sha512(seed).digest()
    a = int.from_bytes(h[:32], "little") & ((1 << 254) - 8) | 1 << 254
    public = _encode(_times(a, _BASE))
    r = int.from_bytes(hashlib.sha512(h[32:] + message).digest(), "little") % L
    point = _encode(_times(r, _BASE))
    k = int.from_bytes(hashlib.sha512(point + public + message).digest(), "little") % L
    return public, point + ((r + k * a) % L).to_bytes(32, "little")


class Ed25519(unittest.TestCase):
    def test_the_vectors_hold(self):
        for seed, public, message, signature in VECTORS:
            seed, public, message, signature = map(bytes.fromhex, (seed, public, message, signature))
            self.assertEqual(sign(seed, message), (public, signature))
            self.assertTrue(PublicKey(public).verifies(signature, message))

    def test_nothing_near_a_signature_holds(self):
        _, public, message, signature = (bytes.fromhex(text) for text in VECTORS[1])
        key = PublicKey(public)
        for bit in range(512):
            bad = bytearray(signature)
            bad[bit // 8] ^= 1 << bit % 8
            self.assertFalse(key.verifies(bytes(bad), message), bit)
        for length in (0, 63, 65):
            self.assertFalse(key.verifies(signature[:length].ljust(length, b"\0"), message))
        self.assertFalse(key.verifies(signature, message + b"\0"))
        self.assertFalse(key.verifies(signature, b""))
        self.assertFalse(PublicKey(bytes.fromhex(VECTORS[2][1])).verifies(signature, message))

    def test_a_signature_has_one_writing(self):
        for _, public, message, signature in VECTORS:
            public, message, signature = map(bytes.fromhex, (public, message, signature))
            s = int.from_bytes(signature[32:], "little")
            for more in range(L, 2**256 - s, L):
                other = signature[:32] + (s + more).to_bytes(32, "little")
                self.assertFalse(PublicKey(public).verifies(other, message), more // L)

    def test_many_signatures_hold_and_hold_for_nobody_else(self):
        seeds = [hashlib.sha256(bytes([i])).digest() for i in range(8)]
        signed = [(*sign(seed, seed * i), seed * i) for i, seed in enumerate(seeds)]
        keys = [PublicKey(public) for public, _, _ in signed]
        for i, key in enumerate(keys):
            for j, (_, signature, message) in enumerate(signed):
                self.assertEqual(key.verifies(signature, message), i == j, (i, j))

    def test_bytes_that_stand_for_no_point_are_no_key(self):
        one = (1).to_bytes(32, "little")
        not_square = next(y for y in range(2, 50) if ed25519._decode(y.to_bytes(32, "little")) is None)
        for bad in (b"", one[:31], one + b"\0", not_square.to_bytes(32, "little"),
                    # y = 1 + p, which is 1 in another writing; x = 0 with the sign of another x.
                    (P + 1).to_bytes(32, "little"), (1 | 1 << 255).to_bytes(32, "little")):
            with self.assertRaises(ValueError, msg=bad.hex()):
                PublicKey(bad)

    def test_a_point_of_small_order_is_no_key(self):
        order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
        for small in (bytes(32), (1).to_bytes(32, "little"), (P - 1).to_bytes(32, "little"), bytes.fromhex(order_8),
                      (P - int.from_bytes(bytes.fromhex(order_8), "little")).to_bytes(32, "little")):
            with self.assertRaisesRegex(ValueError, "small order", msg=small.hex()):
                PublicKey(small)

    def test_tables_hold_the_multiples(self):
        point = _BASE[0][1]
        self.assertEqual(_encode(_times(L, _BASE)), _encode(ZERO))
        doubled = _add(point, point)
        self.assertEqual(_encode(_table(doubled)[0][3]), _encode(_BASE[0][6]))
        self.assertEqual(_encode(_BASE[1][1]), _encode(_add(_BASE[0][15], point)))

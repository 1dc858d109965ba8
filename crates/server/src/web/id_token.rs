//! ID tokens: JSON Web Tokens that are signed with a key which the provider publishes (RFC 7515,
//! 7517, 7518, 7519).
//!
//! Only signatures with public keys are taken, only by keys of the provider's own set, and the set
//! decides what a key is for: a token cannot name its algorithm, its key or where that is found in
//! any other way. What is left out: encrypted tokens, `crit`, certificates.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64URL;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RsaParameters, RsaPublicKeyComponents, UnparsedPublicKey, VerificationAlgorithm,
};
use serde::Deserialize;
use serde_json::Value;

const MAX_TOKEN_BYTES: usize = 64 << 10;

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum InvalidToken {
    #[error("the ID token is not a signed JSON Web Token")]
    Form,
    #[error("the ID token is signed in a way that is not taken")]
    Algorithm,
    #[error("the provider has no key by which the ID token is signed")]
    UnknownKey,
    #[error("the signature of the ID token is wrong")]
    Signature,
}

/// The keys that a provider signs with.
#[derive(Debug, Deserialize)]
pub(super) struct KeySet {
    keys: Vec<Key>,
}

#[derive(Debug, Deserialize)]
struct Key {
    #[serde(default)]
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
}

enum Algorithm {
    Rsa(&'static RsaParameters),
    Ec { curve: &'static str, verification: &'static dyn VerificationAlgorithm },
}

impl Algorithm {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "RS256" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA256),
            "RS384" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA384),
            "RS512" => Self::Rsa(&RSA_PKCS1_2048_8192_SHA512),
            "PS256" => Self::Rsa(&RSA_PSS_2048_8192_SHA256),
            "ES256" => Self::Ec { curve: "P-256", verification: &ECDSA_P256_SHA256_FIXED },
            "ES384" => Self::Ec { curve: "P-384", verification: &ECDSA_P384_SHA384_FIXED },
            _ => return None,
        })
    }

    /// Whether this key signed the message.
    fn is_signed(&self, key: &Key, message: &[u8], signature: &[u8]) -> bool {
        let number = |text: &Option<String>| BASE64URL.decode(text.as_deref()?).ok();
        match self {
            Self::Rsa(parameters) => {
                let (Some(n), Some(e)) = (number(&key.n), number(&key.e)) else { return false };
                let n = n.strip_prefix(&[0]).unwrap_or(&n);
                RsaPublicKeyComponents { n, e: e.as_slice() }
                    .verify(parameters, message, signature)
                    .is_ok()
            }
            Self::Ec { verification, .. } => {
                let (Some(x), Some(y)) = (number(&key.x), number(&key.y)) else { return false };
                let point = [&[4], x.as_slice(), y.as_slice()].concat();
                UnparsedPublicKey::new(*verification, point).verify(message, signature).is_ok()
            }
        }
    }

    fn fits(&self, key: &Key) -> bool {
        match self {
            Self::Rsa(_) => key.kty == "RSA",
            Self::Ec { curve, .. } => key.kty == "EC" && key.crv.as_deref() == Some(curve),
        }
    }
}

impl KeySet {
    /// The claims of a token that one of these keys has signed. Whether they are about us and true
    /// now is the caller's to check.
    pub(super) fn claims(&self, token: &str) -> Result<Value, InvalidToken> {
        let form = InvalidToken::Form;
        let parts: Vec<&str> = token.split('.').collect();
        let [header, payload, signature] = parts.as_slice() else { return Err(form) };
        if token.len() > MAX_TOKEN_BYTES {
            return Err(form);
        }
        let decode = |part: &str| BASE64URL.decode(part).map_err(|_| form);
        let head: Header = serde_json::from_slice(&decode(header)?).map_err(|_| form)?;
        let algorithm = Algorithm::parse(&head.alg).ok_or(InvalidToken::Algorithm)?;
        if head.crit.is_some() {
            return Err(InvalidToken::Algorithm);
        }
        let signature = decode(signature)?;
        let message = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let mut candidates = self.keys.iter().filter(|key| {
            algorithm.fits(key)
                && key.purpose.as_deref().is_none_or(|purpose| purpose == "sig")
                && key.alg.as_ref().is_none_or(|alg| *alg == head.alg)
                && (head.kid.is_none() || key.kid == head.kid)
        });
        let mut has_any = false;
        let is_signed = candidates.any(|key| {
            has_any = true;
            algorithm.is_signed(key, message, &signature)
        });
        match (is_signed, has_any) {
            (true, _) => serde_json::from_slice(&decode(payload)?).map_err(|_| form),
            (false, true) => Err(InvalidToken::Signature),
            (false, false) => Err(InvalidToken::UnknownKey),
        }
    }
}

#[cfg(test)]
mod tests {
    use ring::rand::SystemRandom;
    use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
    use serde_json::json;

    use super::*;

    /// RFC 7515, appendix A.2: a token signed with RS256, and its key.
    const RFC_TOKEN: &str = concat!(
        "eyJhbGciOiJSUzI1NiJ9.",
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFt",
        "cGxlLmNvbS9pc19yb290Ijp0cnVlfQ.",
        "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7",
        "AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4",
        "BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K",
        "0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqv",
        "hJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrB",
        "p0igcN_IoypGlUPQGe77Rw",
    );
    const RFC_MODULUS: &str = concat!(
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp",
        "-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOW",
        "vG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUs",
        "LA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9k",
        "G4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2",
        "PAcDTW9gb54h4FRWyuXpoQ",
    );

    fn set(keys: &Value) -> KeySet {
        serde_json::from_value(json!({ "keys": keys })).unwrap()
    }

    fn rsa(more: &Value) -> Value {
        let mut key = json!({ "kty": "RSA", "n": RFC_MODULUS, "e": "AQAB" });
        key.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        key
    }

    #[test]
    fn the_example_of_the_specification_is_signed() {
        let claims = set(&json!([rsa(&json!({}))])).claims(RFC_TOKEN).unwrap();
        assert_eq!(claims["iss"], "joe");
        // A character of the payload or of the signature, changed.
        for at in [60, RFC_TOKEN.len() - 9] {
            let mut forged = RFC_TOKEN.as_bytes().to_vec();
            forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
            let forged = String::from_utf8(forged).unwrap();
            let refused = set(&json!([rsa(&json!({}))])).claims(&forged).unwrap_err();
            assert_eq!(refused, InvalidToken::Signature);
        }
    }

    #[test]
    fn a_key_is_used_for_nothing_else_than_it_is_for() {
        for other in [
            json!({ "use": "enc" }),
            json!({ "alg": "RS512" }),
            json!({ "kty": "EC", "crv": "P-256" }),
            json!({ "kty": "oct", "k": RFC_MODULUS }),
        ] {
            let refused = set(&json!([rsa(&other)])).claims(RFC_TOKEN).unwrap_err();
            assert_eq!(refused, InvalidToken::UnknownKey, "{other}");
        }
        assert_eq!(set(&json!([])).claims(RFC_TOKEN), Err(InvalidToken::UnknownKey));
    }

    #[test]
    fn f40_a_token_cannot_choose_how_it_is_checked() {
        let keys = set(&json!([rsa(&json!({ "kid": "1" }))]));
        let (_, rest) = RFC_TOKEN.split_once('.').unwrap();
        let with = |header: Value, rest: &str| {
            keys.claims(&format!("{}.{rest}", BASE64URL.encode(header.to_string())))
        };
        let unsigned = rest.split_once('.').unwrap().0.to_owned() + ".";
        for alg in ["none", "None", "", "HS256", "EdDSA", "../RS256"] {
            for rest in [rest, &unsigned] {
                assert_eq!(
                    with(json!({ "alg": alg }), rest),
                    Err(InvalidToken::Algorithm),
                    "{alg}"
                );
            }
        }
        for kid in ["../../dev/null", "2", "", "1'--", "http://x/1"] {
            let header = json!({ "alg": "RS256", "kid": kid, "jku": "http://127.0.0.1/keys" });
            assert_eq!(with(header, rest), Err(InvalidToken::UnknownKey), "{kid}");
        }
        let critical = json!({ "alg": "RS256", "kid": "1", "crit": ["b64"] });
        assert_eq!(with(critical, rest), Err(InvalidToken::Algorithm));
        for broken in
            ["", ".", "..", "a.b.c", "....", &format!("{RFC_TOKEN}.x"), &"x".repeat(1 << 20)]
        {
            assert_eq!(keys.claims(broken), Err(InvalidToken::Form), "{broken:.20}");
        }
    }

    #[test]
    fn elliptic_signatures_are_taken_and_every_one_of_several_keys_is_tried() {
        let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
        let pair = || {
            let document = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
            EcdsaKeyPair::from_pkcs8(algorithm, document.as_ref(), &random).unwrap()
        };
        let jwk = |pair: &EcdsaKeyPair| {
            let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
            json!({ "kty": "EC", "crv": "P-256", "x": BASE64URL.encode(x), "y": BASE64URL.encode(y) })
        };
        let (ours, other) = (pair(), pair());
        let message = format!(
            "{}.{}",
            BASE64URL.encode(r#"{"alg":"ES256"}"#),
            BASE64URL.encode(r#"{"sub":"x"}"#)
        );
        let signature = ours.sign(&random, message.as_bytes()).unwrap();
        let token = format!("{message}.{}", BASE64URL.encode(signature.as_ref()));
        let both = set(&json!([jwk(&other), jwk(&ours)]));
        assert_eq!(both.claims(&token).unwrap()["sub"], "x");
        assert_eq!(set(&json!([jwk(&other)])).claims(&token), Err(InvalidToken::Signature));
    }
}

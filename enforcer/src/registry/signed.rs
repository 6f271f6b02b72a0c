//! Signatures of records: made with the key of the node's X.509-SVID, and checked by each
//! reader. Whoever can write to the registry but has not a node's key can say nothing for it.

use std::time::{Duration, SystemTime};

use prost::Message;
use rustls_pki_types::CertificateDer;
use webpki::{EndEntityCert, aws_lc_rs};

use super::{
    node_identity::{NodeIdentity, Svid, node_id},
    record::{LARGEST_RECORD, Malformed, NodeRecord},
    wire,
};

/// Stands before the record in what is signed, so that a signature means nothing elsewhere.
const CONTEXT: &[u8] = b"enforcer node record 1\0";

/// How far a node's clock may be ahead of ours.
pub const CLOCK_SKEW: Duration = Duration::from_mins(1);
/// The longest time for which a record may ask to be believed.
pub const LONGEST_VALIDITY: Duration = Duration::from_hours(24);

/// Why a record is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No record.
    #[error("the record is malformed: {0}")]
    Malformed(#[from] Malformed),
    /// Nobody that this node trusts.
    #[error("the record is not from a node that is trusted here: {0}")]
    Untrusted(String),
    /// Another node's name.
    #[error("the record under the name {name} is from {from}: a node may publish only its own")]
    OtherNode {
        /// Under which it is published.
        name: String,
        /// Who made it.
        from: String,
    },
    /// Not signed by the key that it shows.
    #[error("the signature does not fit the record")]
    Signature,
    /// Too old.
    #[error("the record has expired")]
    Expired,
    /// From tomorrow.
    #[error(
        "the record is from the future, or is to be believed for longer than a day: set the \
         clocks right"
    )]
    Future,
    /// An older one than that which is known.
    #[error(
        "the record has number {found}, but number {known} of that node is known: it is an old one"
    )]
    Replayed {
        /// Its number.
        found: u64,
        /// The highest known number.
        known: u64,
    },
}

impl Refusal {
    /// All reasons, as in metrics and JSON.
    pub const CODES: [&str; 7] = [
        "malformed",
        "untrusted",
        "other-node",
        "signature",
        "expired",
        "future",
        "replayed",
    ];

    /// As in metrics and JSON.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Untrusted(_) => "untrusted",
            Self::OtherNode { .. } => "other-node",
            Self::Signature => "signature",
            Self::Expired => "expired",
            Self::Future => "future",
            Self::Replayed { .. } => "replayed",
        }
    }
}

/// A signature could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this node's record cannot be signed ({0})")]
pub struct SignError(String);

/// A record as it is published.
pub fn sign(record: &NodeRecord, svid: &Svid) -> Result<Vec<u8>, SignError> {
    let payload = record.encode();
    let message = [CONTEXT, &payload].concat();
    let signature = svid.signer.sign(&message);
    let signed = wire::Signed {
        payload,
        chain: svid.chain.iter().map(|c| c.as_ref().to_vec()).collect(),
        signature: signature.map_err(|e| SignError(e.to_string()))?,
    };
    Ok(signed.encode_to_vec())
}

/// Reads a record that is published under a node's name in a trust domain. `known`: the highest
/// number of that node that was accepted before.
pub fn verify(
    bytes: &[u8],
    name: &str,
    trust_domain: &str,
    identity: &dyn NodeIdentity,
    known: Option<u64>,
    now: SystemTime,
) -> Result<NodeRecord, Refusal> {
    if bytes.len() > LARGEST_RECORD {
        return Err(Malformed::TooMany("bytes").into());
    }
    let signed = wire::Signed::decode(bytes).map_err(|e| Malformed::Encoding(e.to_string()))?;
    let chain: Vec<_> = signed.chain.into_iter().map(CertificateDer::from).collect();
    let proven = identity
        .verify(&chain, now)
        .map_err(|e| Refusal::Untrusted(e.to_string()))?;
    let other_node = |from| Refusal::OtherNode {
        name: name.to_owned(),
        from,
    };
    if proven.spiffe_id != node_id(trust_domain, name) {
        return Err(other_node(proven.spiffe_id));
    }
    let message = [CONTEXT, &signed.payload].concat();
    // The chain was found good, so it has a leaf that can be read.
    let leaf = chain.first().ok_or(Refusal::Signature)?;
    let leaf = EndEntityCert::try_from(leaf).map_err(|_| Refusal::Signature)?;
    let fits = [
        aws_lc_rs::ECDSA_P256_SHA256,
        aws_lc_rs::ECDSA_P384_SHA384,
        aws_lc_rs::ED25519,
    ]
    .into_iter()
    .any(|algorithm| {
        let checked = leaf.verify_signature(algorithm, &message, &signed.signature);
        checked.is_ok()
    });
    if !fits {
        return Err(Refusal::Signature);
    }
    let record = NodeRecord::decode(&signed.payload)?;
    if record.node != name {
        return Err(other_node(record.node));
    }
    let now = milliseconds(now);
    let limit = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if record.expires <= now {
        return Err(Refusal::Expired);
    }
    if record.issued > now.saturating_add(limit(CLOCK_SKEW))
        || record.expires.saturating_sub(record.issued) > limit(LONGEST_VALIDITY)
    {
        return Err(Refusal::Future);
    }
    if let Some(known) = known
        && record.sequence < known
    {
        return Err(Refusal::Replayed {
            found: record.sequence,
            known,
        });
    }
    Ok(record)
}

/// Milliseconds of the Unix epoch.
pub fn milliseconds(moment: SystemTime) -> u64 {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}

#[cfg(test)]
mod tests {
    use super::{
        super::{node_identity::tests::Authority, record::tests::record},
        *,
    };

    #[test]
    fn only_the_node_itself_can_speak_for_it() {
        let authority = Authority::new();
        let (a, b) = (authority.node("a"), authority.node("b"));
        let now = SystemTime::now();
        let check = |bytes: &[u8], name: &str| verify(bytes, name, "example.org", &*b, None, now);
        let good = sign(&record("a", 7), &a.svid().unwrap()).unwrap();
        assert_eq!(check(&good, "a").unwrap().sequence, 7);
        // Its own record under another's name, and another's record by its own key.
        assert_eq!(check(&good, "b").unwrap_err().code(), "other-node");
        let forged = sign(&record("b", 7), &a.svid().unwrap()).unwrap();
        assert_eq!(check(&forged, "b").unwrap_err().code(), "other-node");
        assert_eq!(check(&forged, "a").unwrap_err().code(), "other-node");
        // Of another trust domain, by the same authority.
        let elsewhere = authority.issue("spiffe://other.org/enforcer/node/a");
        let foreign = sign(&record("a", 7), &elsewhere.svid().unwrap()).unwrap();
        assert_eq!(check(&foreign, "a").unwrap_err().code(), "untrusted");
        // Of a workload, whatever it is called.
        let workload = authority.issue("spiffe://example.org/a");
        let bytes = sign(&record("a", 7), &workload.svid().unwrap()).unwrap();
        assert_eq!(check(&bytes, "a").unwrap_err().code(), "other-node");
        let strangers = Authority::new();
        let stranger = strangers.node("a");
        let bytes = sign(&record("a", 7), &stranger.svid().unwrap()).unwrap();
        assert_eq!(check(&bytes, "a").unwrap_err().code(), "untrusted");
    }

    #[test]
    fn not_one_bit_may_change() {
        let authority = Authority::new();
        let a = authority.node("a");
        let now = SystemTime::now();
        let check = |bytes: &[u8]| verify(bytes, "a", "example.org", &*a, None, now);
        let good = sign(&record("a", 7), &a.svid().unwrap()).unwrap();
        check(&good).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            assert!(check(&bytes).is_err(), "byte {at} of {}", good.len());
        }
        // Another payload under the same signature.
        let mut signed = wire::Signed::decode(good.as_slice()).unwrap();
        signed.payload = record("a", 8).encode();
        assert_eq!(check(&signed.encode_to_vec()), Err(Refusal::Signature));
        assert!(check(&[]).is_err());
        assert!(check(&vec![0; LARGEST_RECORD + 1]).is_err());
    }

    #[test]
    fn a_record_has_its_time_and_its_place_in_the_order() {
        let authority = Authority::new();
        let a = authority.node("a");
        let now = SystemTime::now();
        let check = |record: &NodeRecord, known| {
            let bytes = sign(record, &a.svid().unwrap()).unwrap();
            verify(&bytes, "a", "example.org", &*a, known, now).map(drop)
        };
        let good = record("a", 7);
        assert_eq!(check(&good, Some(7)), Ok(()));
        let old = Err(Refusal::Replayed { found: 7, known: 8 });
        assert_eq!(check(&good, Some(8)), old);
        let millis = milliseconds(now);
        let expired = NodeRecord {
            expires: millis,
            ..good.clone()
        };
        assert_eq!(check(&expired, None), Err(Refusal::Expired));
        let early = NodeRecord {
            issued: millis + 120_000,
            expires: millis + 180_000,
            ..good.clone()
        };
        assert_eq!(check(&early, None), Err(Refusal::Future));
        let forever = NodeRecord {
            expires: millis + 100_000_000,
            ..good
        };
        assert_eq!(check(&forever, None), Err(Refusal::Future));
    }
}

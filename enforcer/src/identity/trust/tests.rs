use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyIdMethod, KeyUsagePurpose, NameConstraints, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::{Duration, OffsetDateTime};

use super::*;
use crate::identity::fixtures::{Ca, ca_params, leaf_params, trust, uri_constraint};

const ID: &str = "spiffe://example.org/ns/shop/sa/web";

fn verify(trust: &Trust, chain: &[CertificateDer<'_>]) -> Result<Svid, Refusal> {
    trust.verify(chain, Usage::Client, UnixTime::now())
}

/// What is said of a leaf with these changes, signed by the root.
fn said(change: impl FnOnce(&mut CertificateParams)) -> Result<Svid, Refusal> {
    let root = Ca::root(ca_params("root"));
    let mut params = leaf_params(&[ID]);
    change(&mut params);
    let (leaf, _) = root.issue(&params);
    verify(&trust("example.org", &[&root], Revoked::default()), &[leaf])
}

fn code(result: Result<Svid, Refusal>) -> &'static str {
    let refusal = result.expect_err("refused");
    assert!(refusal.to_string().len() > 30, "{refusal}");
    refusal.code()
}

#[test]
fn a_good_one_is_known_by_its_id() {
    let svid = said(|_| {}).unwrap();
    assert_eq!(svid.id().to_string(), ID);
    assert_eq!(svid.serial().to_string(), "0abc");
    // Other names beside the URI are allowed (X509-SVID, 2).
    said(|params| {
        let name = SanType::DnsName("web.example.org".try_into().unwrap());
        params.subject_alt_names.push(name);
    })
    .unwrap();
}

#[test]
fn what_a_leaf_must_be() {
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let day = Duration::days(1);
    let cases: Vec<(&str, Change)> = vec![
        ("no-uri", Box::new(|p| p.subject_alt_names.clear())),
        (
            "many-uris",
            Box::new(|p| {
                let other = SanType::URI("spiffe://example.org/other".try_into().unwrap());
                p.subject_alt_names.push(other);
            }),
        ),
        (
            "bad-id",
            Box::new(|p| {
                let uri = SanType::URI("https://example.org/web".try_into().unwrap());
                p.subject_alt_names = vec![uri];
            }),
        ),
        (
            "bad-id",
            Box::new(|p| {
                let uri = SanType::URI("spiffe://example.org".try_into().unwrap());
                p.subject_alt_names = vec![uri];
            }),
        ),
        (
            "authority",
            Box::new(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
        ),
        ("key-usage", Box::new(|p| p.key_usages.clear())),
        (
            "key-usage",
            Box::new(|p| p.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
        ),
        (
            "key-usage",
            Box::new(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)),
        ),
        (
            "key-usage",
            Box::new(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)),
        ),
        (
            "extended-key-usage",
            Box::new(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
        ),
        (
            "expired",
            Box::new(move |p| p.not_after = OffsetDateTime::now_utc() - Duration::seconds(2)),
        ),
        (
            "not-yet-valid",
            Box::new(move |p| {
                p.not_before = OffsetDateTime::now_utc() + Duration::minutes(5);
                p.not_after = p.not_before + day;
            }),
        ),
        (
            "unknown-domain",
            Box::new(|p| {
                let uri = SanType::URI("spiffe://example.com/web".try_into().unwrap());
                p.subject_alt_names = vec![uri];
            }),
        ),
    ];
    for (expected, change) in cases {
        assert_eq!(code(said(change)), expected);
    }
    let none = verify(&Trust::default(), &[]);
    assert_eq!(code(none), "no-certificate");
    let nonsense = verify(&Trust::default(), &[vec![0x30, 3, 2, 1, 1].into()]);
    assert_eq!(code(nonsense), "malformed");
}

#[test]
fn each_domain_is_believed_on_its_own_ground_only() {
    let ours = Ca::root(ca_params("ours"));
    let theirs = Ca::root(ca_params("theirs"));
    let trust = Trust::new(BTreeMap::from(
        [("example.org", &ours), ("partner.net", &theirs)].map(|(domain, ca)| {
            let trusted = Trusted {
                bundle: Bundle::from_der(vec![ca.certificate.clone()]).unwrap(),
                revoked: Revoked::default(),
                unknown_revoked: None,
            };
            (domain.parse().unwrap(), Arc::new(trusted))
        }),
    ));
    let partner = leaf_params(&["spiffe://partner.net/web"]);
    let (good, _) = theirs.issue(&partner);
    assert!(verify(&trust, &[good]).is_ok());
    // A federated authority that signs for us, and ours for them.
    let (forged, _) = theirs.issue(&leaf_params(&[ID]));
    assert_eq!(code(verify(&trust, &[forged])), "unknown-issuer");
    let (forged, _) = ours.issue(&partner);
    assert_eq!(code(verify(&trust, &[forged])), "unknown-issuer");
    let key = rcgen::KeyPair::generate().unwrap();
    let own = leaf_params(&[ID]).self_signed(&key).unwrap().der().clone();
    assert_eq!(code(verify(&trust, &[own])), "unknown-issuer");
}

#[test]
fn chains_are_short_and_their_authorities_are_ones() {
    let root = Ca::root(ca_params("root"));
    let believed = trust("example.org", &[&root], Revoked::default());
    let middle = root.below(ca_params("middle"));
    let (leaf, _) = middle.issue(&leaf_params(&[ID]));
    let good = [leaf.clone(), middle.certificate.clone()];
    assert!(verify(&believed, &good).is_ok());
    assert_eq!(code(verify(&believed, &good[..1])), "unknown-issuer");

    let mut chain = good.to_vec();
    chain.extend(std::iter::repeat_n(middle.certificate.clone(), 4));
    assert_eq!(code(verify(&believed, &chain)), "chain-too-long");

    let mut none_below = ca_params("none below");
    none_below.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = root.below(none_below);
    let beyond = last.below(ca_params("beyond"));
    let (leaf, _) = beyond.issue(&leaf_params(&[ID]));
    let chain = [leaf, beyond.certificate, last.certificate];
    assert_eq!(code(verify(&believed, &chain)), "not-an-authority");

    // A workload that signs for others with its own key.
    let (thief, thief_key) = root.issue(&leaf_params(&["spiffe://example.org/thief"]));
    let thiefs = leaf_params(&["spiffe://example.org/thief"]);
    let issuer = Issuer::from_params(&thiefs, &thief_key);
    let params = leaf_params(&[ID]);
    let key = rcgen::KeyPair::generate().unwrap();
    let signed = params.signed_by(&key, &issuer).unwrap().der().clone();
    assert_eq!(
        code(verify(&believed, &[signed, thief])),
        "not-an-authority"
    );

    let mut old = ca_params("old");
    old.not_after = OffsetDateTime::now_utc() - Duration::seconds(2);
    let expired = root.below(old.clone());
    let (leaf, _) = expired.issue(&leaf_params(&[ID]));
    let chain = [leaf, expired.certificate];
    assert_eq!(code(verify(&believed, &chain)), "issuer-expired");
    let old_root = Ca::root(old);
    let (leaf, _) = old_root.issue(&leaf_params(&[ID]));
    let believed = trust("example.org", &[&old_root], Revoked::default());
    assert_eq!(code(verify(&believed, &[leaf])), "no-root");
}

#[test]
fn name_constraints_hold() {
    let root = Ca::root(ca_params("root"));
    let believed = trust("example.org", &[&root], Revoked::default());
    let mut params = ca_params("for example.org");
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example.org".into())],
        excluded_subtrees: Vec::new(),
    });
    let bound = root.below(params);
    for (name, good) in [("web.example.org", true), ("web.example.com", false)] {
        let mut params = leaf_params(&[ID]);
        let name = SanType::DnsName(name.try_into().unwrap());
        params.subject_alt_names.push(name);
        let (leaf, _) = bound.issue(&params);
        let result = verify(&believed, &[leaf, bound.certificate.clone()]);
        if good {
            result.unwrap();
        } else {
            assert_eq!(code(result), "name-constraints");
        }
    }
    // What is not understood is not passed over.
    for host in ["example.org", "example.com"] {
        let mut params = ca_params("for URIs");
        params.custom_extensions = vec![uri_constraint(host)];
        let bound = root.below(params);
        let (leaf, _) = bound.issue(&leaf_params(&[ID]));
        let result = verify(&believed, &[leaf, bound.certificate.clone()]);
        assert_eq!(code(result), "name-constraints");
    }
}

#[test]
fn what_is_revoked_is_not_believed() {
    let root = Ca::root(ca_params("root"));
    let middle = root.below({
        let mut params = ca_params("middle");
        params.serial_number = Some(SerialNumber::from_slice(&[0x77]));
        params
    });
    let (leaf, _) = middle.issue(&leaf_params(&[ID]));
    let chain = [leaf, middle.certificate.clone()];
    let with = |revoked| verify(&trust("example.org", &[&root], revoked), &chain);
    assert!(with(Revoked::of(["0abd".parse().unwrap()])).is_ok());
    for serial in ["0abc", "77"] {
        assert_eq!(
            code(with(Revoked::of([serial.parse().unwrap()]))),
            "revoked"
        );
    }
    let unknown = Trusted {
        bundle: Bundle::from_der(vec![root.certificate.clone()]).unwrap(),
        revoked: Revoked::default(),
        unknown_revoked: Some("it is gone".into()),
    };
    let unknown = Trust::new([("example.org".parse().unwrap(), Arc::new(unknown))].into());
    assert_eq!(code(verify(&unknown, &chain)), "revocation-list");
    let listed = |bytes: &[u8]| {
        let mut revoked = Revoked::default();
        revoked.file = Arc::new(Revoked::read(bytes).unwrap());
        revoked
    };
    assert_eq!(code(with(listed(b"# stolen\n 0A:BC # web\n\n"))), "revoked");
    assert!(Revoked::read(b"web\n").is_err());

    let crl = |ca: &Ca, days: i64, serial: u8| {
        let now = OffsetDateTime::now_utc();
        let params = CertificateRevocationListParams {
            this_update: now - Duration::days(2),
            next_update: now + Duration::days(days),
            crl_number: SerialNumber::from_slice(&[1]),
            issuing_distribution_point: None,
            revoked_certs: vec![RevokedCertParams {
                serial_number: SerialNumber::from_slice(&[0x0a, serial]),
                revocation_time: now,
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params
            .signed_by(&Issuer::from_params(&ca.params, &ca.key))
            .unwrap();
        assert_eq!(listed(list.der()).lists().len(), 1);
        listed(list.pem().unwrap().as_bytes())
    };
    assert_eq!(code(with(crl(&middle, 1, 0xbc))), "revoked");
    assert!(with(crl(&middle, 1, 0xbd)).is_ok());
    // The same number, withdrawn by another authority.
    assert!(with(crl(&root, 1, 0xbc)).is_ok());
    assert_eq!(code(with(crl(&middle, -1, 0xbd))), "revocation-list");
}

#[test]
fn bundles_have_roots_only() {
    let root = Ca::root(ca_params("root"));
    let (leaf, _) = root.issue(&leaf_params(&[ID]));
    let error = Bundle::from_der(vec![root.certificate.clone(), leaf]).unwrap_err();
    assert!(error.to_string().contains("certificate 2"), "{error}");
    assert!(Bundle::from_pem(b"").is_err());
    assert!(Bundle::from_pem(b"-----BEGIN CERTIFICATE-----\nAA\n").is_err());
}

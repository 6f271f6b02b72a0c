use std::{os::unix::fs::MetadataExt, sync::Arc};

use rustls_pki_types::UnixTime;

use super::*;
use crate::identity::{
    bundle::{Bundle, Revoked},
    svid::Usage,
    trust::{Trust, Trusted},
};

const ID: &str = "spiffe://example.org/ns/shop/sa/web";

fn init(folder: &Path, passphrase: Option<&Passphrase>) -> Authority {
    let domain = "example.org".parse().unwrap();
    Authority::init(folder, &domain, ROOT_LIFETIME, passphrase).unwrap()
}

fn issue(folder: &Path) -> Vec<CertificateDer<'static>> {
    let authority = Authority::open(folder, None).unwrap();
    let issued = authority.issue(&ID.parse().unwrap(), &Order::default());
    let certificate = CertificateDer::from_pem_slice(issued.unwrap().certificate.as_bytes());
    vec![certificate.unwrap()]
}

fn is_believed(bundle: &str, chain: &[CertificateDer<'_>]) -> bool {
    let trusted = Trusted {
        bundle: Bundle::from_pem(bundle.as_bytes()).unwrap(),
        revoked: Revoked::default(),
        unknown_revoked: None,
    };
    let domain = "example.org".parse().unwrap();
    let trust = Trust::new([(domain, Arc::new(trusted))].into());
    [Usage::Client, Usage::Server]
        .iter()
        .all(|usage| trust.verify(chain, *usage, UnixTime::now()).is_ok())
}

#[test]
fn what_is_issued_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let authority = init(folder.path(), None);
    assert_eq!(authority.domain().as_str(), "example.org");
    assert!(is_believed(
        &authority.own_bundle().unwrap(),
        &issue(folder.path())
    ));
    let mode = fs::metadata(folder.path().join("root.key")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o600);
    let again = Authority::init(folder.path(), authority.domain(), ROOT_LIFETIME, None);
    assert!(matches!(again, Err(CaError::Exists(_))));
}

#[test]
fn what_is_not_issued() {
    let folder = tempfile::tempdir().unwrap();
    let authority = init(folder.path(), None);
    let foreign = authority.issue(
        &"spiffe://example.com/a".parse().unwrap(),
        &Order::default(),
    );
    assert!(matches!(foreign, Err(CaError::ForeignId { .. })));
    for lifetime in [Duration::ZERO, LONGEST_LEAF + Duration::from_secs(1)] {
        let order = Order {
            lifetime,
            ..Order::default()
        };
        let long = authority.issue(&ID.parse().unwrap(), &order);
        assert!(matches!(long, Err(CaError::Lifetime { .. })));
    }
    fs::set_permissions(
        folder.path().join("root.key"),
        fs::Permissions::from_mode(0o640),
    )
    .unwrap();
    let exposed = Authority::open(folder.path(), None);
    assert!(matches!(exposed, Err(CaError::Exposed { mode: 0o640, .. })));
}

#[test]
fn a_key_at_rest_needs_its_passphrase() {
    let folder = tempfile::tempdir().unwrap();
    let secret = |name: &str, text: &str| {
        let path = folder.path().join(name);
        atomic_file::replace(&path, text.as_bytes()).unwrap();
        Passphrase::read(&path)
    };
    let right = secret("right", "correct horse\nsecond line").unwrap();
    let ca = folder.path().join("ca");
    init(&ca, Some(&right));
    let pem = fs::read_to_string(ca.join("root.key")).unwrap();
    assert!(
        pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
        "{pem}"
    );
    let same = secret("same", "correct horse\r\n").unwrap();
    assert!(Authority::open(&ca, Some(&same)).is_ok());
    let wrong = secret("wrong", "battery staple").unwrap();
    let open = |passphrase| Authority::open(&ca, passphrase).err();
    assert!(matches!(open(Some(&wrong)), Some(CaError::Passphrase(_))));
    assert!(matches!(open(None), Some(CaError::Encrypted(_))));
    assert!(matches!(
        secret("empty", "\nx"),
        Err(CaError::EmptyPassphrase(_))
    ));
}

#[test]
fn nobody_is_refused_during_a_rotation() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path();
    init(path, None);
    let bundle = || Authority::bundle(path).unwrap();
    let rotate = |step| Authority::rotate(path, step, ROOT_LIFETIME, None);
    assert!(matches!(rotate(Rotation::Activate), Err(CaError::Order(_))));
    let (before, old) = (bundle(), issue(path));

    rotate(Rotation::Prepare).unwrap();
    assert!(matches!(rotate(Rotation::Prepare), Err(CaError::Order(_))));
    assert!(matches!(rotate(Rotation::Retire), Err(CaError::Order(_))));
    let prepared = bundle();
    // Whoever has the old bundle still believes what is signed now.
    assert!(is_believed(&before, &issue(path)));
    assert!(is_believed(&prepared, &old));

    rotate(Rotation::Activate).unwrap();
    let new = issue(path);
    assert!(is_believed(&prepared, &new) && is_believed(&bundle(), &new));
    assert!(is_believed(&bundle(), &old));
    assert!(!is_believed(&before, &new), "another root signed it");

    rotate(Rotation::Retire).unwrap();
    assert!(is_believed(&bundle(), &new));
    assert!(!is_believed(&bundle(), &old));
}

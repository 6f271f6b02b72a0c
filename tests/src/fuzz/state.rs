//! Files of the state directory: the daemon's own, but a disk or a hand may have spoilt them.

use enforcer::{
    compile::Numbers,
    state::{choices::Choices, endpoint_numbers::EndpointNumbers},
};

use super::scene::{SCENE, compile};

/// Each kind of file: what is read can be worked with.
pub fn files(data: &[u8]) {
    if let Ok(mut choices) = serde_json::from_slice::<Choices>(data) {
        choices.begin_trial(u64::MAX, 1);
        choices.roll_back(None);
    }
    if let Ok(numbers) = serde_json::from_slice::<EndpointNumbers>(data) {
        serde_json::to_string(&numbers).expect("numbers have a JSON form");
    }
    if let Ok(mut numbers) = serde_json::from_slice::<Numbers>(data) {
        let given = numbers.given();
        // Numbers that leave no room are refused, in order.
        if let Ok(image) = compile(&SCENE.0, &mut numbers) {
            numbers.retire(&image);
        }
        numbers.skip(&given);
        serde_json::to_string(&numbers).expect("numbers have a JSON form");
    }
}

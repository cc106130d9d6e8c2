//! Fits of activations against what is known of them in closed form.
#![allow(clippy::unwrap_used, clippy::panic)] // helpers of tests

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use subrosa_network::fit::{MAX_FIT_DEGREE, errors_between, errors_on, least_squares_on};
use subrosa_network::{ActivationKind, Fit, FitError, FitMethod, Interval, Polynomial, ScalarFunction};

fn fit(text: &str) -> Polynomial {
    text.parse::<Fit>().and_then(|fit| fit.polynomial()).unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn refused(text: &str) -> FitError {
    match text.parse::<Fit>().and_then(|fit| fit.polynomial()) {
        Ok(polynomial) => panic!("{text} gave {polynomial}"),
        Err(error) => error,
    }
}

fn function(kind: ActivationKind) -> ScalarFunction {
    kind.try_into().unwrap()
}

#[track_caller]
fn close(polynomial: &Polynomial, expected: &[f64], tolerance: f64) {
    let got = polynomial.coefficients();
    assert_eq!(got.len(), expected.len(), "{polynomial}");
    for (got, expected) in got.iter().zip(expected) {
        assert!((got - expected).abs() <= tolerance, "{polynomial}: {got} is not {expected}");
    }
}

#[test]
fn taylor_gives_the_known_series() {
    let third = 1.0 / 3.0;
    let density = (2.0 * std::f64::consts::PI).sqrt().recip();
    for (text, expected) in [
        ("taylor(sigmoid,5,-2,2)", vec![0.5, 0.25, 0.0, -1.0 / 48.0, 0.0, 1.0 / 480.0]),
        ("taylor(tanh,7,-1,1)", vec![0.0, 1.0, 0.0, -third, 0.0, 2.0 / 15.0, 0.0, -17.0 / 315.0]),
        ("taylor(exp,4,-1,1)", vec![1.0, 1.0, 0.5, 0.5 * third, 0.125 * third]),
        // ln(1 + e^x) in the place of max(x, 0), as in Chabanne et al.
        ("taylor(relu,4,-3,3)", vec![2f64.ln(), 0.5, 0.125, 0.0, -1.0 / 192.0]),
        ("taylor(softplus,4,-3,3)", vec![2f64.ln(), 0.5, 0.125, 0.0, -1.0 / 192.0]),
        ("taylor(swish,4,-2,2)", vec![0.0, 0.5, 0.25, 0.0, -1.0 / 48.0]),
        ("taylor(gelu,4,-2,2)", vec![0.0, 0.5, density, 0.0, -density / 6.0]),
        ("taylor(hardswish,6,-2,2)", vec![0.0, 0.5, 1.0 / 6.0]),
        // Not around 0: (x - 1)^k / 2^(k + 1) with changing signs, of 1 - 1 / (1 + x).
        ("taylor(softsign,2,0.5,1.5)", vec![0.5 - 0.25 - 0.125, 0.25 + 0.25, -0.125]),
        ("taylor(elu,3,1,2)", vec![0.0, 1.0]),
    ] {
        close(&fit(text), &expected, 1e-15);
    }
}

#[test]
fn least_squares_and_integral_of_relu_have_their_closed_forms() {
    // |x| on [-1, 1] is 1/2 P_0 + 5/8 P_2 up to degree 3, and relu is (x + |x|) / 2.
    let near = |a: f64| [3.0 * a / 32.0, 0.5, 15.0 / (32.0 * a)];
    close(&fit("least-squares(relu,2,-1,1)"), &near(1.0), 1e-14);
    close(&fit("least-squares(relu,3,-4,4)"), &near(4.0), 1e-14);
    // The step is 1/2 P_0 + 3/4 P_1 up to degree 2; the means of relu and of its integral differ by a / 8.
    close(&fit("integral(relu,2,-1,1)"), &[0.125, 0.5, 0.375], 1e-14);
    close(&fit("integral(relu,3,-4,4)"), &[0.5, 0.5, 3.0 / 32.0], 1e-14);
    // |t| is 2 / pi T_0 + 4 / (3 pi) T_2 up to degree 3.
    let pi = std::f64::consts::PI;
    close(&fit("chebyshev(relu,2,-1,1)"), &[1.0 / (3.0 * pi), 0.5, 4.0 / (3.0 * pi)], 1e-14);
    // For N(0, 1) the coefficients of the Hermite polynomials 1, x, x^2 - 1 are d, 1/2, d / 2 with the density d at 0;
    // the interval leaves out what lies beyond four standard deviations.
    let d = (2.0 * pi).sqrt().recip();
    close(&fit("normal(relu,2,-4,4)"), &[d / 2.0, 0.5, d / 2.0], 1e-3);
    close(&fit("normal(relu,2,-40,40)"), &[10.0 * d / 2.0, 0.5, d / 20.0], 1e-2);
}

#[test]
fn polynomials_are_fitted_by_themselves() {
    for method in ["chebyshev", "least-squares", "normal", "integral", "taylor"] {
        close(&fit(&format!("{method}(hardswish,7,-3,2)")), &[0.0, 0.5, 1.0 / 6.0], 1e-12);
        close(&fit(&format!("{method}(elu,3,1,2)")), &[0.0, 1.0], 1e-11);
        if method != "taylor" {
            close(&fit(&format!("{method}(leakyrelu:0.25,3,-2,-1)")), &[0.0, 0.25], 1e-11);
        }
    }
}

#[test]
fn nothing_beside_the_least_squares_is_nearer() {
    let seed = 7;
    println!("seed {seed}");
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let samples: Vec<f64> = (0..500).map(|_| random.random_range(-2.0..3.0f64).powi(3) / 9.0).collect();
    for kind in [ActivationKind::Relu, ActivationKind::Gelu, ActivationKind::Tanh, ActivationKind::Elu] {
        for degree in [1, 2, 5] {
            let (function, interval) = (function(kind), Interval::new(-2.0, 3.0).unwrap());
            let whole = Fit::new(FitMethod::LeastSquares, function, degree, interval).unwrap().polynomial().unwrap();
            let sampled = least_squares_on(function, degree, &samples).unwrap();
            let on_interval: &dyn Fn(&Polynomial) -> f64 = &|p| errors_between(p, function, interval).rms;
            let on_sampled: &dyn Fn(&Polynomial) -> f64 = &|p| errors_on(p, function, &samples).unwrap().rms;
            for (polynomial, other, rms) in [(&whole, &sampled, on_interval), (&sampled, &whole, on_sampled)] {
                let least = rms(polynomial);
                assert!(rms(other) > least);
                for power in 0..=degree {
                    for step in [-1e-3, 1e-3] {
                        let mut coefficients = polynomial.coefficients().to_vec();
                        coefficients[power] += step;
                        assert!(rms(&Polynomial::new(coefficients)) > least, "{kind} {degree}: x^{power} by {step}");
                    }
                }
            }
        }
    }
}

#[test]
fn errors_fall_with_the_degree() {
    for (method, fall) in [("chebyshev", 0.85), ("least-squares", 0.9), ("integral", 0.9)] {
        let error = |degree: usize| format!("{method}(relu,{degree},-4,4)").parse::<Fit>().unwrap().error_on_interval();
        for degree in (2..=14).step_by(2) {
            let (lower, higher) = (error(degree).unwrap(), error(degree + 2).unwrap());
            assert!(higher.rms < fall * lower.rms, "{method}, {degree}: {} {}", lower.rms, higher.rms);
            assert!(higher.max_abs < lower.max_abs, "{method}, {degree}: {} {}", lower.max_abs, higher.max_abs);
            // The corner of relu is the worst place.
            assert!(lower.at.abs() < 1e-6, "{method}, {degree}: {}", lower.at);
            // An odd power more helps nothing on a symmetric interval.
            let odd = error(degree + 1).unwrap();
            assert!((odd.rms - lower.rms).abs() < 1e-12, "{method}, {degree}: {} {}", lower.rms, odd.rms);
        }
    }
    // Analytic functions are fitted to rounding.
    let tanh: Fit = "chebyshev(tanh,31,-2,2)".parse().unwrap();
    assert!(tanh.error_on_interval().unwrap().max_abs < 1e-8);
    // The polynomial of the paper's Figure 13.
    let paper =
        errors_between(&"x2+2x".parse().unwrap(), function(ActivationKind::Relu), Interval::new(-4.0, 4.0).unwrap());
    assert_eq!((paper.max_abs, paper.at), (20.0, 4.0));
}

#[test]
fn the_integral_has_the_slope_that_was_fitted_and_no_error_in_the_mean() {
    // The slope of elu with a = 1 is e^min(x, 0): fitted on its own by many samples, evenly spaced.
    let interval = Interval::new(-3.0, 2.0).unwrap();
    let integral = fit("integral(elu,5,-3,2)");
    let even: Vec<f64> = (0..200_000).map(|i| -3.0 + 5.0 * (f64::from(i) + 0.5) / 200_000.0).collect();
    let mean = even.iter().map(|x| ActivationKind::Elu.eval(*x).unwrap() - integral.eval(*x)).sum::<f64>() / 2e5;
    assert!(mean.abs() < 1e-9, "{mean}");
    let slope = |x: f64| {
        let c = integral.coefficients();
        (1..c.len()).rev().fold(0.0, |sum, k| sum * x + k as f64 * c[k])
    };
    // What is left of the slope is orthogonal to every polynomial of the slope's degree.
    for power in 0..5 {
        let product: f64 = even.iter().map(|x| (x.min(0.0).exp() - slope(*x)) * x.powi(power)).sum::<f64>() / 2e5;
        assert!(product.abs() < 1e-8 * 3f64.powi(power), "x^{power}: {product}");
    }
    let direct = Fit::new(FitMethod::LeastSquares, function(ActivationKind::Elu), 5, interval).unwrap();
    let rms = errors_between(&integral, function(ActivationKind::Elu), interval).rms;
    assert!(rms >= direct.error_on_interval().unwrap().rms && rms < 0.05, "{rms}");
}

#[test]
fn every_function_can_be_fitted_up_to_degree_24_around_0() {
    let mut functions = 0;
    for kind in ActivationKind::all().filter(|kind| kind.eval(1.0).is_some()) {
        functions += 1;
        for (method, _) in FitMethod::ALL {
            for (degree, lo, hi) in [(1, -4.0, 4.0), (9, -6.0, 5.0), (24, -8.0, 8.0)] {
                let fit = Fit::new(method, function(kind), degree, Interval::new(lo, hi).unwrap()).unwrap();
                match fit.polynomial() {
                    Ok(polynomial) => assert!(polynomial.degree() <= degree && polynomial.eval(1.0).is_finite()),
                    Err(FitError::NoDerivative { .. }) => {
                        assert!(matches!(method, FitMethod::Taylor | FitMethod::Integral), "{fit}");
                    }
                    Err(error) => panic!("{fit}: {error}"),
                }
            }
        }
    }
    assert_eq!(functions, 18);
    assert_eq!([ActivationKind::Prelu, ActivationKind::Clip, ActivationKind::Other].map(|k| k.eval(1.0)), [None; 3]);
}

#[test]
fn texts_read_and_print_back() {
    for (text, printed) in [
        ("chebyshev(relu,3,-4,4)", "chebyshev(relu,3,-4,4)"),
        (" Least_Squares( SiLU , 2, -3.5, 3e0 ) ", "least-squares(swish,2,-3.5,3)"),
        ("taylor(leakyrelu:0.2,3,-2,2)", "taylor(leakyrelu:0.2,3,-2,2)"),
        ("normal(leakyrelu:0.01,3,0,2)", "normal(leakyrelu,3,0,2)"),
        ("integral(hard-sigmoid,4,-1e-3,1e6)", "integral(hardsigmoid,4,-0.001,1000000)"),
    ] {
        let fit: Fit = text.parse().unwrap();
        assert_eq!(fit.to_string(), printed);
        assert_eq!(printed.parse::<Fit>().unwrap(), fit);
        let json = serde_json::to_string(&fit).unwrap();
        assert_eq!(serde_json::from_str::<Fit>(&json).unwrap(), fit);
    }
    let short = Fit::parse_for(ActivationKind::Relu, "chebyshev(3,-4,4)").unwrap();
    assert_eq!(short, "chebyshev(relu,3,-4,4)".parse().unwrap());
}

#[test]
fn what_cannot_be_fitted_says_why() {
    for (text, part) in [
        ("chebyshev", "write METHOD(FUNCTION,DEGREE,LO,HI)"),
        ("chebyshev(relu,3,-4)", "write METHOD(FUNCTION,DEGREE,LO,HI)"),
        ("chebyshev(3,-4,4)", "write METHOD(FUNCTION,DEGREE,LO,HI)"),
        ("chebyshev(relu,3,-4,4", "write METHOD(FUNCTION,DEGREE,LO,HI)"),
        ("chebyshev(relu,two,-4,4)", "write METHOD(FUNCTION,DEGREE,LO,HI)"),
        ("remez(relu,3,-4,4)", "'remez' is not a way to fit"),
        ("taylor(rellu,3,-4,4)", "'rellu' is not a function"),
        ("taylor(leakyrelu:,3,-4,4)", "'leakyrelu:' is not a function"),
        ("taylor(clip,3,-4,4)", "clip is not one function"),
        ("taylor(relu:2,3,-4,4)", "relu cannot have the parameter 2"),
        ("taylor(celu:-1,3,-4,4)", "celu cannot have the parameter -1"),
        ("taylor(leakyrelu:nan,3,-4,4)", "leakyrelu cannot have the parameter NaN"),
        ("taylor(relu,0,-4,4)", "degree 0: choose 1 to 32"),
        ("taylor(relu,33,-4,4)", "degree 33: choose 1 to 32"),
        ("taylor(relu,3,4,-4)", "no fit on [4, -4]"),
        ("taylor(relu,3,4,4)", "no fit on [4, 4]"),
        ("taylor(relu,3,-inf,4)", "no fit on [-inf, 4]"),
        ("taylor(relu,3,nan,4)", "no fit on [NaN, 4]"),
        ("taylor(elu,3,-4,4)", "taylor needs derivatives that elu does not have at 0"),
        ("integral(thresholdedrelu,3,-4,4)", "integral needs derivatives that thresholdedrelu does not have at 1"),
        ("chebyshev(exp,3,0,1000)", "exp is too large at"),
        ("taylor(exp,3,0,2000)", "exp is too large at"),
        ("chebyshev(relu,20,-1,9)", "degree 20 cannot be written in powers of x on [-1, 9]"),
        ("taylor(tanh,30,-1,9)", "degree 30 cannot be written in powers of x on [-1, 9]"),
    ] {
        let error = refused(text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
    let relu = function(ActivationKind::Relu);
    assert_eq!(least_squares_on(relu, 2, &[0.0, 1.0, 1.0, 0.0]), Err(FitError::FewSamples { degree: 2 }));
    assert_eq!(least_squares_on(relu, 2, &[]), Err(FitError::FewSamples { degree: 2 }));
    assert_eq!(least_squares_on(relu, 2, &[0.0, f64::INFINITY]), Err(FitError::Sample(f64::INFINITY)));
    assert_eq!(least_squares_on(relu, MAX_FIT_DEGREE + 1, &[0.0, 1.0]), Err(FitError::Degree(33)));
    assert_eq!(errors_on(&Polynomial::square(), relu, &[]), Err(FitError::NoSamples));
    // Three points determine a parabola.
    close(&least_squares_on(relu, 2, &[-1.0, 0.0, 1.0]).unwrap(), &[0.0, 0.5, 0.5], 1e-15);
}

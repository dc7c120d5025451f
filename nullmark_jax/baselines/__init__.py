"""Earlier watermarks, by triggers: Adi et al. 2018 (`adi`) and Zhang et al. 2018 (`zhang`)."""

"""What training costs as data grow: structures as varied as OMol25's, made to any number."""

"""Use a network as a scikit-learn estimator: in a pipeline, its parameters searched by rotating folds."""

from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fusedstep.model_selection import RotatingKFold
from fusedstep.sklearn import MLPClassifier

X, y = load_breast_cancer(return_X_y=True)
network = MLPClassifier((64, 32), batch_norm=True, dropout=0.2, early_stopping=True, random_state=0)
search = GridSearchCV(
    make_pipeline(StandardScaler(), network),
    {"mlpclassifier__optimizer": ["adam", "rmsprop"], "mlpclassifier__learning_rate_init": [1e-2, 1e-3]},
    cv=RotatingKFold(5, random_state=0).as_sklearn(),
)
search.fit(X, y)
print(search.best_params_, round(search.best_score_, 3))
